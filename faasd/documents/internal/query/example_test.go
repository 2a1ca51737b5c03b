package query_test

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/query"
)

func ExampleCompile() {
	cheap, _ := bson.Marshal(bson.M{"prices": bson.M{"$lt": 10}})
	filter, err := query.Compile(cheap, 0)
	if err != nil {
		panic(err)
	}
	doc, _ := bson.Marshal(bson.M{"prices": bson.A{25, 8}})
	fmt.Println(filter.MatchAt(doc)) // the second element matches
	// Output: true 1 <nil>
}
