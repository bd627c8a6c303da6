package vectors

func init() {
	add("password.json", 81, names(Passwords, func(c PasswordCase) Source { return c.Source }))
}
