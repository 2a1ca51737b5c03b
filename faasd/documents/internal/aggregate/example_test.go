package aggregate_test

import (
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/aggregate"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func ExampleCompile() {
	stage, _ := bson.Marshal(bson.M{"$group": bson.D{{Key: "_id", Value: "$sku"}, {Key: "sold", Value: bson.M{"$sum": "$n"}}}})
	group, err := aggregate.Compile([]aggregate.Value{value.Of(stage)}, aggregate.Limits{})
	if err != nil {
		panic(err)
	}
	n := int32(0)
	sold := group(func() (value.Doc, error) { // three lines of one product: 1, 2 and 3
		if n++; n > 3 {
			return nil, nil
		}
		return bson.Marshal(bson.M{"sku": "K-1", "n": n})
	})
	fmt.Println(sold())
	fmt.Println(sold())
	// Output:
	// {"_id": "K-1","sold": {"$numberInt":"6"}} <nil>
	//  <nil>
}
