package expr

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// objects is the operators on documents.
var objects = table{
	"$mergeObjects":  {min: 0, max: -1, call: mergeObjects},
	"$objectToArray": unaryNullable(objectToArray),
	"$arrayToObject": unaryNullable(arrayToObject),
}

func mergeObjects(a []Value) (Value, error) {
	out := value.EmptyDoc()
	for _, v := range a {
		if value.Nullish(v) {
			continue
		}
		if !value.IsDoc(v) {
			return Value{}, fault.New(40400, "$mergeObjects requires object inputs, but input is of type %s", value.TypeName(v.Type))
		}
		for it := value.Iter(v.Data); it.Next(); {
			out = value.SetField(out, string(it.Name), it.Value)
		}
	}
	return value.Of(out), nil
}

func objectToArray(v Value) (Value, error) {
	if !value.IsDoc(v) {
		return Value{}, fault.New(40390, "$objectToArray requires a document input, found: %s", value.TypeName(v.Type))
	}
	var out []Value
	for it := value.Iter(v.Data); it.Next(); {
		out = append(out, value.Of(bsoncore.BuildDocument(nil,
			bsoncore.AppendStringElement(nil, "k", string(it.Name)),
			bsoncore.AppendValueElement(nil, "v", it.Value))))
	}
	return value.Array(out...), nil
}

func arrayToObject(array Value) (Value, error) {
	bad := fault.New(40386, "$arrayToObject requires an array of key-value pairs, where each is an array of two or an object with fields k and v")
	if !value.IsArray(array) {
		return Value{}, bad
	}
	out := value.EmptyDoc()
	for it := value.Iter(array.Data); it.Next(); {
		var k, v Value
		switch {
		case value.IsDoc(it.Value):
			k, v = value.Field(it.Value.Data, "k"), value.Field(it.Value.Data, "v")
		case value.IsArray(it.Value):
			k, v = value.Index(it.Value.Data, 0), value.Index(it.Value.Data, 1)
		}
		if k.Type != bsoncore.TypeString || value.Missing(v) || strings.ContainsRune(k.StringValue(), 0) {
			return Value{}, bad
		}
		out = value.SetField(out, k.StringValue(), v)
	}
	return value.Of(out), nil
}
