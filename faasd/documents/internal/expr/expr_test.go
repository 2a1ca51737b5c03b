package expr_test

import (
	"errors"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/expr"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// document is the document of the expressions below: an order on a Sunday.
const document = `{
	"i": 7, "l": {"$numberLong": "7"}, "d": 2.5, "m": {"$numberDecimal": "1.10"}, "neg": -7,
	"s": "Crème", "t": true, "n": null, "a": [3, 1, 2], "o": {"x": 1, "y": {"z": 2}},
	"lines": [{"q": 2, "p": 5}, {"q": 1, "p": 7.5}, {"p": 1}],
	"id": {"$oid": "5f5e1000aabbccddeeff0011"}, "at": {"$date": "2026-03-01T13:05:09.042Z"}
}`

// val reads a value in MongoDB's extended JSON.
func val(t *testing.T, text string) value.Value {
	t.Helper()
	var d bson.D
	if err := bson.UnmarshalExtJSON(fmt.Appendf(nil, `{"v": %s}`, text), false, &d); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return value.Field(value.Doc(raw), "v")
}

func evaluate(t *testing.T, text string) (value.Value, error) {
	t.Helper()
	e, err := expr.Parse(val(t, text))
	if err != nil {
		return value.Value{}, err
	}
	return e.Eval(&expr.Vars{Root: val(t, document), Now: 1000})
}

// TestExpressions compares every operator with what MongoDB's manual says of it.
// Values are compared with their types: 7 is an int, 7.0 a double.
func TestExpressions(t *testing.T) {
	const missing = ""
	for _, test := range []struct{ expression, want string }{
		{`"plain"`, `"plain"`}, {`"$i"`, `7`}, {`"$nowhere"`, missing}, {`"$o.y.z"`, `2`}, {`"$lines.q"`, `[2, 1]`}, {`"$a.0"`, `[]`},
		{`"$$ROOT.i"`, `7`}, {`"$$CURRENT.i"`, `7`}, {`"$$NOW"`, `{"$date": {"$numberLong": "1000"}}`}, {`"$$REMOVE"`, missing},
		{`{"a": "$i", "b": "$nowhere", "c": {"d": "$n"}}`, `{"a": 7, "c": {"d": null}}`}, {`["$i", "$nowhere"]`, `[7, null]`},
		{`{"$literal": "$i"}`, `"$i"`}, {`{"$literal": {"$add": [1, 2]}}`, `{"$add": [1, 2]}`},

		{`{"$eq": ["$i", "$l"]}`, `true`}, {`{"$eq": ["$n", "$nowhere"]}`, `false`}, {`{"$ne": ["$i", 7.5]}`, `true`},
		{`{"$gt": ["$i", 6]}`, `true`}, {`{"$gte": ["$i", 7.0]}`, `true`}, {`{"$lt": ["$n", "$i"]}`, `true`}, {`{"$lt": ["$nowhere", "$n"]}`, `true`},
		{`{"$lte": ["$s", "$i"]}`, `false`}, {`{"$cmp": [1, 2]}`, `-1`}, {`{"$cmp": ["b", "a"]}`, `1`}, {`{"$cmp": [[1, 2], [1, 2]]}`, `0`},
		{`{"$not": ["$t"]}`, `false`}, {`{"$not": [0]}`, `true`}, {`{"$not": ["$nowhere"]}`, `true`},
		{`{"$and": []}`, `true`}, {`{"$and": ["$t", 1, "x"]}`, `true`}, {`{"$and": ["$t", "$n", {"$divide": [1, 0]}]}`, `false`},
		{`{"$or": []}`, `false`}, {`{"$or": ["$n", 0, "$t", {"$divide": [1, 0]}]}`, `true`},

		{`{"$add": []}`, `0`}, {`{"$add": ["$i", 1]}`, `8`}, {`{"$add": ["$i", "$l"]}`, `{"$numberLong": "14"}`}, {`{"$add": ["$i", "$d"]}`, `9.5`},
		{`{"$add": ["$m", 1]}`, `{"$numberDecimal": "2.10"}`}, {`{"$add": [2147483647, 1]}`, `{"$numberLong": "2147483648"}`},
		{`{"$add": ["$i", "$n"]}`, `null`}, {`{"$add": ["$at", 958]}`, `{"$date": "2026-03-01T13:05:10Z"}`},
		{`{"$subtract": ["$i", 10]}`, `-3`}, {`{"$subtract": ["$at", 42]}`, `{"$date": "2026-03-01T13:05:09Z"}`},
		{`{"$subtract": ["$at", {"$literal": {"$date": "2026-03-01T13:05:08.042Z"}}]}`, `{"$numberLong": "1000"}`}, {`{"$subtract": ["$nowhere", 1]}`, `null`},
		{`{"$multiply": []}`, `1`}, {`{"$multiply": ["$i", 2, "$d"]}`, `35.0`}, {`{"$multiply": [65536, 65536]}`, `{"$numberLong": "4294967296"}`}, {`{"$multiply": ["$n", 2]}`, `null`},
		{`{"$divide": [7, 2]}`, `3.5`}, {`{"$divide": [6, 2]}`, `3.0`}, {`{"$divide": ["$m", 2]}`, `{"$numberDecimal": "0.55"}`}, {`{"$divide": ["$n", 0]}`, `null`},
		{`{"$mod": [7, 3]}`, `1`}, {`{"$mod": ["$neg", 3]}`, `-1`}, {`{"$mod": ["$l", 4]}`, `{"$numberLong": "3"}`}, {`{"$mod": [7.5, 2]}`, `1.5`},
		{`{"$mod": [7, -1]}`, `0`}, {`{"$mod": ["$l", -1]}`, `{"$numberLong": "0"}`}, {`{"$mod": ["$n", 2]}`, `null`},
		{`{"$abs": "$neg"}`, `7`}, {`{"$abs": -2147483648}`, `{"$numberLong": "2147483648"}`}, {`{"$abs": "$n"}`, `null`}, {`{"$abs": -1.5}`, `1.5`},
		{`{"$ceil": 1.2}`, `2.0`}, {`{"$ceil": -1.2}`, `-1.0`}, {`{"$ceil": 3}`, `3`}, {`{"$floor": 1.8}`, `1.0`}, {`{"$floor": "$m"}`, `{"$numberDecimal": "1"}`},
		{`{"$sqrt": 25}`, `5.0`}, {`{"$sqrt": "$nowhere"}`, `null`},
		{`{"$round": [2.5]}`, `2.0`}, {`{"$round": [3.5]}`, `4.0`}, {`{"$round": [19.257, 2]}`, `19.26`}, {`{"$round": [1255, -1]}`, `1260`}, {`{"$round": ["$i", 2]}`, `7`}, {`{"$round": ["$n"]}`, `null`},
		{`{"$trunc": [7.8]}`, `7.0`}, {`{"$trunc": [-2.3]}`, `-2.0`}, {`{"$trunc": [19.257, 1]}`, `19.2`}, {`{"$trunc": [1259, -2]}`, `1200`},

		{`{"$concat": ["a", "$s", "!"]}`, `"aCrème!"`}, {`{"$concat": ["a", "$n"]}`, `null`}, {`{"$concat": []}`, `""`},
		{`{"$toLower": "ABC"}`, `"abc"`}, {`{"$toUpper": "abc"}`, `"ABC"`}, {`{"$toUpper": "$n"}`, `""`}, {`{"$toLower": "$i"}`, `"7"`},
		{`{"$strLenBytes": "$s"}`, `6`}, {`{"$strLenCP": "$s"}`, `5`},
		{`{"$substr": ["hello", 1, 3]}`, `"ell"`}, {`{"$substrBytes": ["hello", 1, -1]}`, `"ello"`}, {`{"$substrBytes": ["hello", 9, 1]}`, `""`},
		{`{"$substrCP": ["$s", 1, 2]}`, `"rè"`}, {`{"$substrCP": ["$s", 4, 10]}`, `"e"`},
		{`{"$split": ["a-b-c", "-"]}`, `["a", "b", "c"]`}, {`{"$split": ["abc", "-"]}`, `["abc"]`}, {`{"$split": ["$n", "-"]}`, `null`},

		{`{"$size": "$a"}`, `3`}, {`{"$isArray": "$a"}`, `true`}, {`{"$isArray": "$nowhere"}`, `false`}, {`{"$isNumber": "$d"}`, `true`}, {`{"$isNumber": "$s"}`, `false`},
		{`{"$type": "$i"}`, `"int"`}, {`{"$type": "$nowhere"}`, `"missing"`}, {`{"$type": "$at"}`, `"date"`}, {`{"$type": "$id"}`, `"objectId"`}, {`{"$type": "$m"}`, `"decimal"`},
		{`{"$in": [2, "$a"]}`, `true`}, {`{"$in": [2.5, "$a"]}`, `false`},
		{`{"$arrayElemAt": ["$a", 0]}`, `3`}, {`{"$arrayElemAt": ["$a", -1]}`, `2`}, {`{"$arrayElemAt": ["$a", 5]}`, missing}, {`{"$arrayElemAt": ["$n", 0]}`, `null`},
		{`{"$first": "$a"}`, `3`}, {`{"$last": "$a"}`, `2`}, {`{"$first": [[]]}`, missing}, {`{"$last": "$nowhere"}`, `null`},
		{`{"$concatArrays": ["$a", [9]]}`, `[3, 1, 2, 9]`}, {`{"$concatArrays": ["$a", "$n"]}`, `null`},
		{`{"$setUnion": ["$a", [3, 4]]}`, `[1, 2, 3, 4]`}, {`{"$setUnion": ["$a", "$n"]}`, `null`},
		{`{"$slice": ["$a", 2]}`, `[3, 1]`}, {`{"$slice": ["$a", -2]}`, `[1, 2]`}, {`{"$slice": ["$a", 1, 5]}`, `[1, 2]`}, {`{"$slice": ["$a", -5, 2]}`, `[3, 1]`}, {`{"$slice": ["$n", 1]}`, `null`},
		{`{"$range": [0, 5, 2]}`, `[0, 2, 4]`}, {`{"$range": [3, 0, -1]}`, `[3, 2, 1]`}, {`{"$range": [0, 0]}`, `[]`},
		{`{"$mergeObjects": ["$o", {"x": 9, "w": 1}, "$n"]}`, `{"x": 9, "y": {"z": 2}, "w": 1}`}, {`{"$mergeObjects": []}`, `{}`},
		{`{"$objectToArray": {"x": 1, "y": "b"}}`, `[{"k": "x", "v": 1}, {"k": "y", "v": "b"}]`}, {`{"$objectToArray": "$n"}`, `null`},
		{`{"$arrayToObject": [[{"k": "x", "v": 1}, {"k": "y", "v": "b"}]]}`, `{"x": 1, "y": "b"}`}, {`{"$arrayToObject": {"$literal": [["x", 1]]}}`, `{"x": 1}`}, {`{"$arrayToObject": "$n"}`, `null`},

		{`{"$toString": "$id"}`, `"5f5e1000aabbccddeeff0011"`}, {`{"$toString": "$at"}`, `"2026-03-01T13:05:09.042Z"`}, {`{"$toString": 2.5}`, `"2.5"`}, {`{"$toString": "$l"}`, `"7"`}, {`{"$toString": "$t"}`, `"true"`}, {`{"$toString": "$m"}`, `"1.10"`}, {`{"$toString": "$n"}`, `null`},
		{`{"$toString": {"$numberDouble": "-Infinity"}}`, `"-Infinity"`}, {`{"$toString": 1e22}`, `"1e+22"`},
		{`{"$toBool": 0}`, `false`}, {`{"$toBool": "false"}`, `true`}, {`{"$toBool": "$n"}`, `null`},
		{`{"$toInt": 7.9}`, `7`}, {`{"$toInt": "-12"}`, `-12`}, {`{"$toInt": "$t"}`, `1`}, {`{"$toInt": "$nowhere"}`, `null`}, {`{"$toInt": "$l"}`, `7`},
		{`{"$toLong": 7}`, `{"$numberLong": "7"}`}, {`{"$toLong": "$at"}`, `{"$numberLong": "1772370309042"}`},
		{`{"$toDouble": "2.5"}`, `2.5`}, {`{"$toDouble": 7}`, `7.0`}, {`{"$toDouble": "$t"}`, `1.0`}, {`{"$toDouble": false}`, `0.0`}, {`{"$toDouble": "$n"}`, `null`}, {`{"$toDouble": "$at"}`, `1772370309042.0`},

		{`{"$year": "$at"}`, `2026`}, {`{"$month": "$at"}`, `3`}, {`{"$dayOfMonth": "$at"}`, `1`}, {`{"$dayOfWeek": "$at"}`, `1`}, {`{"$dayOfYear": "$at"}`, `60`}, {`{"$week": "$at"}`, `9`},
		{`{"$hour": "$at"}`, `13`}, {`{"$minute": "$at"}`, `5`}, {`{"$second": "$at"}`, `9`}, {`{"$millisecond": "$at"}`, `42`}, {`{"$year": "$id"}`, `2020`}, {`{"$year": "$n"}`, `null`},
		{`{"$year": {"$timestamp": {"t": 1772370309, "i": 1}}}`, `2026`},
		{`{"$dateToString": {"date": "$at"}}`, `"2026-03-01T13:05:09.042Z"`}, {`{"$dateToString": {"date": "$at", "format": "%d.%m.%Y %H:%M:%S.%L %j %w %u %z %%"}}`, `"01.03.2026 13:05:09.042 060 1 7 +0000 %"`},
		{`{"$dateToString": {"date": "$n"}}`, `null`}, {`{"$dateToString": {"date": "$n", "onNull": "never", "timezone": "UTC"}}`, `"never"`},

		{`{"$min": [3, "$n", 1]}`, `1`}, {`{"$max": "$a"}`, `3`}, {`{"$max": ["$nowhere"]}`, `null`}, {`{"$min": ["b", 2]}`, `2`},
		{`{"$cond": ["$t", "yes", "no"]}`, `"yes"`}, {`{"$cond": {"if": "$n", "then": {"$divide": [1, 0]}, "else": "no"}}`, `"no"`},
		{`{"$ifNull": ["$nowhere", "x"]}`, `"x"`}, {`{"$ifNull": ["$i", "x"]}`, `7`},
		{`{"$switch": {"branches": [{"case": "$n", "then": 1}, {"case": "$t", "then": 2}], "default": 3}}`, `2`}, {`{"$switch": {"branches": [{"case": false, "then": 1}], "default": 3}}`, `3`},
		{`{"$let": {"vars": {"x": 2, "y": "$i"}, "in": {"$multiply": ["$$x", "$$y"]}}}`, `14`}, {`{"$let": {"vars": {"o": "$o"}, "in": "$$o.y.z"}}`, `2`},
		{`{"$let": {"vars": {"x": 1}, "in": {"$let": {"vars": {"x": {"$add": ["$$x", 1]}, "y": "$$x"}, "in": ["$$x", "$$y"]}}}}`, `[2, 1]`},
		{`{"$map": {"input": "$a", "in": {"$multiply": ["$$this", 2]}}}`, `[6, 2, 4]`}, {`{"$map": {"input": "$lines", "as": "line", "in": "$$line.q"}}`, `[2, 1, null]`}, {`{"$map": {"input": "$n", "in": 1}}`, `null`},
		{`{"$filter": {"input": "$a", "as": "x", "cond": {"$gt": ["$$x", 1]}}}`, `[3, 2]`}, {`{"$filter": {"input": "$nowhere", "cond": true}}`, `null`},
		{`{"$reduce": {"input": "$a", "initialValue": 0, "in": {"$add": ["$$value", "$$this"]}}}`, `6`}, {`{"$reduce": {"input": "$n", "initialValue": 0, "in": 1}}`, `null`},
	} {
		got, err := evaluate(t, test.expression)
		switch {
		case err != nil:
			t.Errorf("%s: %v", test.expression, err)
		case test.want == missing:
			if !value.Missing(got) {
				t.Errorf("%s: got %s, want none", test.expression, got.String())
			}
		case value.Missing(got):
			t.Errorf("%s: got none, want %s", test.expression, test.want)
		default:
			if want := val(t, test.want); got.Type != want.Type || !value.Equal(got, want) {
				t.Errorf("%s: got %s (%s), want %s (%s)", test.expression, got.String(), value.TypeName(got.Type), want.String(), value.TypeName(want.Type))
			}
		}
	}
}

// TestErrors: an expression that fails has MongoDB's code.
func TestErrors(t *testing.T) {
	for expression, code := range map[string]int32{
		`{"$noSuch": 1}`: 168, `{"$sin": 1}`: 115, `{"$eq": [1]}`: 16020, `{"$add": 1, "$sum": 2}`: 15983, `{"a.b": 1}`: 40412,
		`"$$nobody"`: 17276, `"$$"`: 9, `"$$CLUSTER_TIME"`: 115, `"$a..b"`: 40353, `"$a.$b"`: 16410,
		`{"$add": ["$s", 1]}`: 16554, `{"$add": ["$at", "$at"]}`: 16612, `{"$subtract": ["$s", 1]}`: 16556, `{"$multiply": ["$s"]}`: 16555,
		`{"$divide": [1, 0]}`: 16608, `{"$divide": ["$s", 1]}`: 16609, `{"$mod": [1, 0]}`: 16610, `{"$mod": ["$s", 1]}`: 16611,
		`{"$abs": "$s"}`: 28765, `{"$sqrt": -1}`: 28714, `{"$ceil": "$s"}`: 51081, `{"$round": ["$s"]}`: 51081, `{"$round": [1, 101]}`: 51083,
		`{"$concat": ["a", 1]}`: 16702, `{"$strLenCP": "$n"}`: 34471, `{"$strLenBytes": 1}`: 34473, `{"$toUpper": "$a"}`: 16007,
		`{"$substrBytes": ["$s", 3, 1]}`: 28656, `{"$substrBytes": ["a", -1, 1]}`: 50752, `{"$substrBytes": ["a", "x", 1]}`: 16034, `{"$substrCP": ["a", -1, 1]}`: 34450,
		`{"$split": [1, "-"]}`: 40085, `{"$split": ["a", ""]}`: 40087,
		`{"$size": "$i"}`: 17124, `{"$in": [1, 2]}`: 40081, `{"$arrayElemAt": [1, 2]}`: 28689, `{"$arrayElemAt": ["$a", "x"]}`: 28690, `{"$concatArrays": [1]}`: 28664, `{"$setUnion": [1]}`: 17043,
		`{"$slice": [1, 2]}`: 28724, `{"$slice": ["$a", "x"]}`: 28725, `{"$slice": ["$a", 1, 0]}`: 28729, `{"$range": [0, 1.5]}`: 34443, `{"$range": [0, 1, 0]}`: 34449, `{"$range": [0, 2000000000]}`: 292,
		`{"$mergeObjects": [1]}`: 40400, `{"$objectToArray": 1}`: 40390, `{"$arrayToObject": 1}`: 40386, `{"$arrayToObject": {"$literal": [{"k": 1, "v": 1}]}}`: 40386,
		`{"$toString": "$a"}`: 241, `{"$toInt": "x"}`: 241, `{"$toInt": 3000000000}`: 241, `{"$toInt": "$at"}`: 241, `{"$toLong": 1e300}`: 241, `{"$toDouble": "x"}`: 241,
		`{"$year": "$s"}`: 16006, `{"$dateToString": {"date": "$s"}}`: 16006, `{"$dateToString": {"date": "$at", "format": "%Q"}}`: 18536, `{"$dateToString": {"date": "$at", "format": "%"}}`: 18535,
		`{"$dateToString": {"date": "$at", "format": 1}}`: 18533, `{"$dateToString": {"date": "$at", "timezone": "Europe/Berlin"}}`: 115, `{"$dateToString": {}}`: 9,
		`{"$cond": [1, 2]}`: 16020, `{"$cond": {"if": 1, "then": 2}}`: 9, `{"$cond": {"if": 1, "then": 2, "else": 3, "x": 4}}`: 9, `{"$ifNull": [1]}`: 16020,
		`{"$switch": {"branches": 1}}`: 40061, `{"$switch": {"branches": []}}`: 40068, `{"$switch": {"branches": [{"case": false, "then": 1}]}}`: 40066, `{"$switch": {"branches": [{"case": 1}]}}`: 9,
		`{"$let": 1}`: 9, `{"$let": {"vars": 1, "in": 2}}`: 16876, `{"$let": {"vars": {"X": 1}, "in": 2}}`: 16867, `{"$let": {"vars": {"CURRENT": 1}, "in": "$i"}}`: 115,
		`{"$map": {"input": 1, "in": 1}}`: 16883, `{"$map": {"input": [], "as": 1, "in": 1}}`: 16866, `{"$map": {"input": [], "as": "ROOT", "in": 1}}`: 16867,
		`{"$filter": {"input": 1, "cond": true}}`: 28651, `{"$reduce": {"input": 1, "initialValue": 0, "in": 1}}`: 40080, `{"$filter": {"input": []}}`: 9,
	} {
		_, err := evaluate(t, expression)
		var e *fault.Error
		if !errors.As(err, &e) || e.Code != code {
			t.Errorf("%s: got %v, want code %d", expression, err, code)
		}
	}
}
