package documents_test

import (
	"context"
	"fmt"
	"os"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// In a test, t is its *testing.T.
func ExampleStart() {
	srv := documents.Start(t, documents.Options{})
	client, err := mongo.Connect(options.Client().ApplyURI(srv.URI()))
	if err != nil {
		t.Fatal(err)
	}

	orders := client.Database("shop").Collection("orders")
	_, err = orders.InsertOne(context.Background(), bson.D{{Key: "_id", Value: 1}, {Key: "total", Value: 1250}})
	fmt.Println(err)
	_, err = orders.InsertOne(context.Background(), bson.D{{Key: "_id", Value: 1}})
	fmt.Println(mongo.IsDuplicateKeyError(err))
	// Output:
	// <nil>
	// true
}

// What is acknowledged is still there when the directory is opened again.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "documents-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for range 2 {
		srv, err := documents.Open(documents.Options{Dir: dir})
		if err != nil {
			panic(err)
		}
		client, err := mongo.Connect(options.Client().ApplyURI(srv.URI()))
		if err != nil {
			panic(err)
		}
		visits := client.Database("shop").Collection("visits")
		if _, err := visits.InsertOne(context.Background(), bson.D{}); err != nil {
			panic(err)
		}
		fmt.Println(visits.CountDocuments(context.Background(), bson.D{}))
		client.Disconnect(context.Background())
		if err := srv.Close(); err != nil {
			panic(err)
		}
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
}
