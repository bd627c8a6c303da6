package vectors

func init() {
	add("noise.json", 5, names(Noise, func(c NoiseCase) Source { return c.Source }))
	add("noise_session.json", 2, names(NoiseSessions, func(c NoiseSessionCase) Source { return c.Source }))
}

// add puts a file into the table of loaders.
func add(file string, count int, load func() []string) {
	l := loaders[file]
	l.count, l.load = count, load
	loaders[file] = l
}
