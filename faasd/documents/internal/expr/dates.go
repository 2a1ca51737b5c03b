package expr

import (
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// dates is the parts of a date, in UTC. $dateToString has arguments with
// names: parseDateToString.
var dates = table{
	"$year":        datePart(time.Time.Year),
	"$month":       datePart(func(t time.Time) int { return int(t.Month()) }),
	"$week":        datePart(func(t time.Time) int { return (t.YearDay() + 6 - int(t.Weekday())) / 7 }),
	"$dayOfMonth":  datePart(time.Time.Day),
	"$dayOfWeek":   datePart(func(t time.Time) int { return int(t.Weekday()) + 1 }),
	"$dayOfYear":   datePart(time.Time.YearDay),
	"$hour":        datePart(time.Time.Hour),
	"$minute":      datePart(time.Time.Minute),
	"$second":      datePart(time.Time.Second),
	"$millisecond": datePart(func(t time.Time) int { return t.Nanosecond() / 1e6 }),
}

func datePart(f func(t time.Time) int) *function {
	return unaryNullable(func(v Value) (Value, error) {
		t, err := timeOf(v)
		if err != nil {
			return Value{}, err
		}
		return value.Int32(int32(f(t))), nil
	})
}

// timeOf returns the time of a date, a timestamp or an ObjectID, and fails for
// other types.
func timeOf(v Value) (time.Time, error) {
	switch v.Type {
	case bsoncore.TypeDateTime:
		return time.UnixMilli(v.DateTime()).UTC(), nil
	case bsoncore.TypeTimestamp:
		t, _ := v.Timestamp()
		return time.Unix(int64(t), 0).UTC(), nil
	case bsoncore.TypeObjectID:
		return bson.ObjectID(v.ObjectID()).Timestamp().UTC(), nil
	}
	return time.Time{}, fault.New(16006, "can't convert from BSON type %s to Date", value.TypeName(v.Type))
}

func parseDateToString(name string, arg Value, names []string) (Expr, error) {
	f, err := arguments(name, arg, []string{"date"}, []string{"format", "timezone", "onNull"})
	if err != nil {
		return nil, err
	}
	if tz, ok := f["timezone"]; ok && !(tz.Type == bsoncore.TypeString && (tz.StringValue() == "UTC" || tz.StringValue() == "GMT")) {
		return nil, fault.Unsupported("$dateToString with a timezone other than UTC")
	}
	format := "%Y-%m-%dT%H:%M:%S.%LZ"
	if v, ok := f["format"]; ok {
		if v.Type != bsoncore.TypeString {
			return nil, fault.New(18533, "$dateToString requires that 'format' be a string, found: %s", value.TypeName(v.Type))
		}
		format = v.StringValue()
	}
	onNull, ok := f["onNull"]
	if !ok {
		onNull = value.Null()
	}
	parts, err := parseAll(names, f["date"], onNull)
	if err != nil {
		return nil, err
	}
	if _, err := formatDate(time.Unix(0, 0).UTC(), format); err != nil {
		return nil, err
	}
	return &dateString{lazy{parts, func(vars *Vars, parts []Expr) (Value, error) {
		v, err := parts[0].Eval(vars)
		if err != nil {
			return Value{}, err
		}
		if value.Nullish(v) {
			return parts[1].Eval(vars)
		}
		t, err := timeOf(v)
		if err != nil {
			return Value{}, err
		}
		s, err := formatDate(t, format)
		return value.String(s), err
	}}}, nil
}

// dateString is $dateToString, the only lazy expression that MongoDB evaluates
// before it runs a query, where its parts are constant.
type dateString struct{ lazy }

func (*dateString) foldable() {}

// layouts are the characters of a format that Go's time formats.
var layouts = map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'z': "-0700", 'j': "002"}

// formatDate fails where the format is not one of $dateToString.
func formatDate(t time.Time, format string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if i == len(format) {
			return "", fault.New(18535, "Unmatched '%%' at end of format string")
		}
		switch c := format[i]; {
		case layouts[c] != "":
			b.WriteString(t.Format(layouts[c]))
		case c == 'L':
			b.WriteString(t.Format(".000")[1:])
		case c == 'w':
			b.WriteString(strconv.Itoa(int(t.Weekday()) + 1))
		case c == 'u':
			b.WriteString(strconv.Itoa((int(t.Weekday())+6)%7 + 1))
		case c == '%':
			b.WriteByte('%')
		default:
			return "", fault.New(18536, "Invalid format character '%%%c' in format string", c)
		}
	}
	return b.String(), nil
}
