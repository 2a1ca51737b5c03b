package expr_test

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func ExampleCompile() {
	spec, _ := bson.Marshal(bson.M{"$multiply": bson.A{"$price", "$n"}})
	e, err := expr.Compile(value.Of(spec))
	if err != nil {
		panic(err)
	}
	doc, _ := bson.Marshal(bson.M{"price": 250, "n": 3})
	fmt.Println(e.Eval(&expr.Vars{Root: value.Of(doc)}))
	// Output: {"$numberInt":"750"} <nil>
}
