//go:build !unix

package needs

import "os"

// lock does nothing: there is no infrastructure of ours on such a machine.
func lock(*os.File, bool) error { return nil }
