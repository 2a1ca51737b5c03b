// Command box builds the real box's images without Docker, and writes the compose file
// for `faasd up`. box.sh calls it.
//
//	box images BIN OUT           build images of the programs in BIN, as tar files in OUT
//	box compose FILE OVERRIDE    print FILE with the changes of OVERRIDE
//	box -version                 print the version
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/kiosk-shop/kiosk/shared/version"
)

func main() {
	version.Flag()
	flag.Parse()
	var err error
	switch args := flag.Args(); {
	case len(args) == 3 && args[0] == "images":
		err = images(args[1], args[2])
	case len(args) == 3 && args[0] == "compose":
		err = composeFile(args[1], args[2], os.Stdout)
	default:
		err = errors.New("usage: box images BIN OUT | box compose FILE OVERRIDE | box -version")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}
