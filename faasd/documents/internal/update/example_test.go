package update_test

import (
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/update"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

func ExampleCompile() {
	take, _ := bson.Marshal(bson.M{"$inc": bson.M{"stock": -2}})
	up, err := update.Compile(value.Of(take), nil, time.Now(), nil)
	if err != nil {
		panic(err)
	}
	doc, _ := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "stock", Value: 5}})
	after, err := up.Apply(doc, -1, false)
	fmt.Println(value.Field(after, "stock"), err)
	// Output: {"$numberInt":"3"} <nil>
}
