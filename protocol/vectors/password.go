package vectors

// PasswordCase is a password as typed (raw, not always UTF-8) and either its
// normalised bytes or the class of the refusal, as package password names it.
type PasswordCase struct {
	Source
	Raw        Hex    `json:"raw"`
	Normalised Hex    `json:"normalised,omitempty"`
	Error      string `json:"error,omitempty"`
}

// Passwords returns the cases of password.json.
func Passwords() []PasswordCase { return load[PasswordCase]("password.json") }
