package kiosk_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	kiosk "github.com/kiosk-shop/kiosk/shared"
)

func TestParseID(t *testing.T) {
	for _, text := range []string{"", "me", "0123456789abcdef0123456", "0123456789abcdef012345678", "../../../etc/passwd12345", "{\"$ne\": null}           "} {
		if _, err := kiosk.ParseID(text); !kiosk.IsKind(err, kiosk.KindNotFound) {
			t.Errorf("ParseID(%q): %v, want not found", text, err)
		}
	}
	a, b := kiosk.NewID(), kiosk.NewID()
	if a == b || !a.Valid() {
		t.Errorf("NewID: got %q, then %q, want two valid identifiers", a, b)
	}
	var fromJSON kiosk.ID
	if err := json.Unmarshal([]byte(strings.ToUpper(`"`+string(a)+`"`)), &fromJSON); err != nil || fromJSON != a {
		t.Errorf("in capitals: got %q, %v, want %s", fromJSON, err, a)
	}
	if id, err := kiosk.ParseID(strings.ToUpper(string(a))); err != nil || id != a {
		t.Errorf("ParseID: got %q, %v, want %s", id, err, a)
	}
}

func TestParseMoney(t *testing.T) {
	const most = kiosk.Money(1_000_00)
	valid := map[kiosk.Decimal]kiosk.Money{
		"0": 0, "-0": 0, "1": 100, "1.5": 150, "1.50": 150, "1.500": 150, "0.01": 1, "19.99": 1999, "1e2": 10000, "15e-1": 150, "1000": 100000, "1000.00": 100000,
	}
	for text, want := range valid {
		if got, err := kiosk.ParseMoney("price", text, most); err != nil || got != want {
			t.Errorf("ParseMoney(%s) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []kiosk.Decimal{"", "-1", "-0.01", "1.999", "0.001", "1000.01", "1e3000000000", "1e-3000000000", "1e21", "1e99999999999999999999", kiosk.Decimal("1." + strings.Repeat("0", 100))} {
		if got, err := kiosk.ParseMoney("price", text, most); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("ParseMoney(%s) = %d, %v, want it refused", text, got, err)
		}
	}
}

func TestMoneyAsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := kiosk.Money(rapid.Int64Range(0, int64(kiosk.MaxPrice)*1_000_000).Draw(t, "minor units"))
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var d kiosk.Decimal
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		if back, err := kiosk.ParseMoney("price", d, kiosk.MaxPrice*1_000_000); err != nil || back != m {
			t.Fatalf("%s: got %d, %v, want %d", text, back, err, m)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		m := kiosk.Money(rapid.Int64().Draw(t, "minor units"))
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var back kiosk.Money
		if err := json.Unmarshal(text, &back); err != nil || back != m {
			t.Fatalf("%s: got %d, %v, want %d", text, back, err, m)
		}
	})
	for text, want := range map[string]kiosk.Money{"12": 1200, "12.5": 1250, "-0.07": -7, "92233720368547758.07": math.MaxInt64, "-92233720368547758.08": math.MinInt64, "null": 0} {
		var m kiosk.Money
		if err := json.Unmarshal([]byte(text), &m); err != nil || m != want {
			t.Errorf("%s was read as %d, %v, want %d", text, m, err, want)
		}
	}
	for _, text := range []string{`"12.50"`, `""`, "true", "1e2", "1.5e1", "12.505", "92233720368547758.08", "{}", "[1]"} {
		var m kiosk.Money
		if err := json.Unmarshal([]byte(text), &m); err == nil {
			t.Errorf("%s: got %d, want an error", text, m)
		}
	}
	for m, want := range map[kiosk.Money]string{0: "0.00", 5: "0.05", 1999: "19.99", -150: "-1.50"} {
		if got := m.String(); got != want {
			t.Errorf("Money(%d) is written %s, want %s", m, got, want)
		}
	}
}

func TestDecimalTakesNumbersOnly(t *testing.T) {
	for _, text := range []string{`"1.00"`, `true`, `{}`, `[1]`, `{"$gt": 0}`} {
		var d kiosk.Decimal
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s: got %q, want an error", text, d)
		}
	}
}

func TestCheckText(t *testing.T) {
	for _, text := range []string{"Ada", "Zoë Müller", "محمد", "न\u200dम", "👩\u200d🚀", strings.Repeat("ä", 10)} {
		if err := kiosk.CheckText("name", text, 1, 10); err != nil {
			t.Errorf("%q: got %v, want nil", text, err)
		}
	}
	for _, text := range []string{"", "12345678901", "a\nb", "a\r\nBcc: x", "a\x00b", "a\u202eb", "a\u200bb", "\ufeffa", "a\u2028b", "a\xffb"} {
		if err := kiosk.CheckText("name", text, 1, 10); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("%q: %v, want it refused", text, err)
		}
	}
	if err := kiosk.CheckProse("description", "two\nlines", 0, 100); err != nil {
		t.Error(err)
	}
}

func TestPage(t *testing.T) {
	for _, p := range []kiosk.Page{{Number: 1, Limit: 1}, {Number: 1, Limit: 100}, {Number: 100, Limit: 100}, {Number: 10_000, Limit: 1}, {Number: 334, Limit: 30}, {Limit: 20, After: "x"}} {
		if err := p.Check(); err != nil {
			t.Errorf("%+v: got %v, want nil", p, err)
		}
	}
	for _, p := range []kiosk.Page{
		{Number: 0, Limit: 20}, {Number: -1, Limit: 20}, {Number: 1, Limit: 0}, {Number: 1, Limit: 101}, {Limit: 0, After: "x"},
		{Number: 1 << 62, Limit: 100}, {Number: 101, Limit: 100}, {Number: 10_001, Limit: 1}, {Number: 335, Limit: 30}, {Number: 1, Limit: 20, After: "x"},
	} {
		if err := p.Check(); !kiosk.IsKind(err, kiosk.KindInvalid) {
			t.Errorf("%+v: %v, want it refused", p, err)
		}
	}
}

func TestCursor(t *testing.T) {
	id := kiosk.NewID()
	for _, key := range []string{"", "Tea 茶", "a\x00b", strings.Repeat("茶", 200), kiosk.NumberKey(-5), kiosk.NumberKey(1<<62 + 1)} {
		cursor := kiosk.Cursor{Key: key, ID: id}
		token := cursor.Token("list")
		got, err := kiosk.Page{After: token}.Cursor("list")
		if err != nil || *got != cursor {
			t.Fatalf("key %q: got %+v, %v, want %+v", key, got, err, cursor)
		}
		if strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("token: got %s, want only letters, digits, - and _", token)
		}
		forged := map[string]string{
			"of another list": kiosk.Cursor{Key: key, ID: id}.Token("other"), "cut": token[:len(token)-1], "longer": token + "A",
			"padded": token + "=", "in two lines": token[:9] + "\n" + token[9:], "too long": strings.Repeat("A", 3000), "no token": "..",
			"of nothing": "AA", "of another version": "Ag" + token[2:],
		}
		for i := range token { // a character changed
			c := byte('A')
			if token[i] == c {
				c = 'B'
			}
			forged[fmt.Sprint("changed at ", i)] = token[:i] + string(c) + token[i+1:]
		}
		for name, token := range forged {
			if _, err := (kiosk.Page{After: token}).Cursor("list"); !kiosk.IsKind(err, kiosk.KindInvalid) {
				t.Errorf("a token %s: %v, want it refused", name, err)
			}
		}
	}
	if cursor, err := (kiosk.Page{Number: 1}).Cursor("list"); cursor != nil || err != nil {
		t.Errorf("no token: got %v, %v, want nil", cursor, err)
	}
	numbers := []int64{math.MinInt64, -1, 0, 1, 255, 256, math.MaxInt64}
	for i, n := range numbers {
		if got := (kiosk.Cursor{Key: kiosk.NumberKey(n)}).Number(); got != n {
			t.Errorf("got %d, want %d", got, n)
		}
		if i > 0 && kiosk.NumberKey(numbers[i-1]) >= kiosk.NumberKey(n) {
			t.Errorf("key of %d: got one not above that of %d, want it above", n, numbers[i-1])
		}
	}
}

func TestKindsSurviveWrapping(t *testing.T) {
	err := fmt.Errorf("while placing: %w", errors.Join(errors.New("other"), kiosk.Conflict("taken")))
	if !kiosk.IsKind(err, kiosk.KindConflict) || kiosk.IsKind(err, kiosk.KindNotFound) || kiosk.IsKind(nil, kiosk.KindConflict) {
		t.Errorf("%v: got kind %s, want conflict", err, kiosk.KindOf(err))
	}
	if kiosk.KindOf(errors.New("plain")) != kiosk.KindInternal {
		t.Errorf("an error without a kind: got %s, want internal", kiosk.KindOf(errors.New("plain")))
	}
}
