// Command box does for box.sh what a shell cannot do well: it builds the
// images of the real box without Docker, and writes the compose file that
// `faasd up` reads.
//
//	box images BIN OUT                images of the programs in BIN, as tar files in OUT
//	box compose FILE OVERRIDE         FILE with OVERRIDE laid over it, to standard output
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "images":
		err = images(args[1], args[2])
	case len(args) == 3 && args[0] == "compose":
		err = composeFile(args[1], args[2], os.Stdout)
	default:
		err = fmt.Errorf("usage: box images BIN OUT | box compose FILE OVERRIDE")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}
