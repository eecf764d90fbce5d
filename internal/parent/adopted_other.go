//go:build !unix

package parent

// adopted is not known here.
func adopted(int) bool { return false }
