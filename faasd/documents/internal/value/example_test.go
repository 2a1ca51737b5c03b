package value_test

import (
	"bytes"
	"fmt"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Keys sort by their bytes as MongoDB sorts the values.
func ExampleAppendKey() {
	null, two, half := value.AppendKey(nil, value.Null()), value.AppendKey(nil, value.Int32(2)), value.AppendKey(nil, value.Double(2.5))
	fmt.Println(bytes.Compare(null, two), bytes.Compare(two, half))
	fmt.Println(bytes.Equal(two, value.AppendKey(nil, value.Int64(2))))
	// Output:
	// -1 -1
	// true
}
