package problem_test

import (
	"reflect"
	"testing"

	kiosk "github.com/kiosk-shop/kiosk/shared"
	"github.com/kiosk-shop/kiosk/shared/problem"
)

func TestJSON(t *testing.T) {
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"with a detail", problem.JSON(404, problem.NoEndpoint), `{"type":"about:blank","title":"Not Found","status":404,"detail":"there is no endpoint at this path"}`},
		{"without a detail", problem.JSON(500, ""), `{"type":"about:blank","title":"Internal Server Error","status":500}`},
		{"with a field", problem.JSON(422, "the input is not valid", kiosk.FieldError{Field: "email", Message: "is required"}),
			`{"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"the input is not valid","errors":[{"field":"email","message":"is required"}]}`},
		{"of a status that Go does not know", problem.JSON(problem.StatusClientClosedRequest, ""), `{"type":"about:blank","title":"Client Closed Request","status":499}`},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s: got %s, want %s", test.name, test.got, test.want)
		}
	}
}

func TestParse(t *testing.T) {
	written := problem.Problem{Type: "about:blank", Title: "Conflict", Status: 409, Detail: "is taken", Errors: []kiosk.FieldError{{Field: "sku", Message: "is taken"}}}
	for _, test := range []struct {
		name string
		body string
		want problem.Problem
	}{
		{"what JSON wrote", string(problem.JSON(409, written.Detail, written.Errors...)), written},
		{"another's page", "<html>Bad Gateway</html>", problem.Problem{Type: "about:blank", Title: "Conflict", Status: 409}},
		{"JSON without a title", `{"message":"no"}`, problem.Problem{Type: "about:blank", Title: "Conflict", Status: 409}},
	} {
		if got := problem.Parse(409, []byte(test.body)); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}
