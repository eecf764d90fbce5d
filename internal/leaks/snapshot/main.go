// Command snapshot prints what package leaks looks at, a line each, for two of them to be compared.
package main

import (
	"fmt"
	"os"

	"github.com/grimoire-build/grimoire/internal/leaks"
)

func main() {
	lines, err := leaks.Take()
	if err != nil {
		fmt.Fprintln(os.Stderr, "snapshot:", err)
		os.Exit(1)
	}
	for _, line := range lines {
		fmt.Println(line)
	}
}
