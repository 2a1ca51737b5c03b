// Package version has the version of Kiosk that a program belongs to. It
// imports nothing of Kiosk, so that every program may import it.
package version

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// next is the version that is being worked on. A release writes its own over it:
//
//	go build -ldflags "-X github.com/kiosk-shop/kiosk/shared/version.released=1.2.3"
const next = "0.1.0-dev"

var released string

// Number returns the version, such as 1.2.3.
func Number() string { return cmp.Or(released, next) }

// Text returns what -version prints: the version, the commit where the program
// was built with one, and by which Go, for which platform.
func Text() string {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = ", commit " + s.Value
			}
		}
	}
	return fmt.Sprintf("kiosk %s%s, %s %s/%s", Number(), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Flag adds -version to the program's flags. It is called before flag.Parse,
// which then prints Text and exits.
func Flag() {
	flag.BoolFunc("version", "print the version and exit", func(string) error {
		fmt.Println(Text())
		os.Exit(0)
		return nil
	})
}
