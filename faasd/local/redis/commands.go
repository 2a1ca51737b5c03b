package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxKey is the longest key, in bytes.
const maxKey = 16 << 10

// call is one command on keys. The store's lock is held.
type call struct {
	store   *store
	scripts *scripts
	db      int
	reply   *replies
}

// command is a command of the server.
type command struct {
	name    string
	arity   int    // the number of words, with the name; negative: at least as many
	group   string // as redis-cli shows it
	summary string
	// Which words are keys, as in COMMAND: the first, the last (negative: from the
	// end), and the step. All 0 if there are none.
	first, last, step int
	writes            bool
	anybody           bool // allowed before authentication
	unscripted        bool // not allowed in scripts

	// Exactly one is set: keys needs the store's lock, session the connection.
	keys    func(call, [][]byte)
	session func(*conn, [][]byte)
}

func (c *command) fits(words int) bool {
	return words == c.arity || c.arity < 0 && words >= -c.arity
}

// catalogue has the commands by name, in lower case. It is filled once, and not
// initialised here, since some commands use it.
var catalogue = map[string]*command{}

func init() {
	for _, c := range slices.Concat(keyCommands, stringCommands, scriptCommands, sessionCommands) {
		catalogue[c.name] = c
	}
}

// lookUp returns the command with a name, in upper or lower case.
func lookUp(name []byte) *command {
	var lower [16]byte
	if len(name) > len(lower) {
		return nil
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	return catalogue[string(lower[:len(name)])]
}

// unknown returns the error for an unknown command.
func unknown(args [][]byte) string {
	name := args[0][:min(len(args[0]), 128)]
	return fmt.Sprintf("ERR unknown command '%s': the local box's Redis supports only strings; set REDIS_ADDR to use another Redis", name)
}

const (
	errSyntax  = "ERR syntax error"
	errInteger = "ERR value is not an integer or out of range"
	errKey     = "ERR the key is longer than 16384 bytes"
)

func option(arg []byte, name string) bool { return strings.EqualFold(string(arg), name) }

var keyCommands = []*command{
	{name: "del", arity: -2, group: "generic", summary: "Deletes one or more keys.", first: 1, last: -1, step: 1, writes: true, keys: del},
	{name: "unlink", arity: -2, group: "generic", summary: "Deletes one or more keys.", first: 1, last: -1, step: 1, writes: true, keys: del},
	{name: "exists", arity: -2, group: "generic", summary: "Counts the keys that exist.", first: 1, last: -1, step: 1, keys: exists},
	{name: "touch", arity: -2, group: "generic", summary: "Counts the keys that exist.", first: 1, last: -1, step: 1, keys: exists},
	{name: "type", arity: 2, group: "generic", summary: "Returns the type of a key's value: string, or none.", first: 1, last: 1, step: 1, keys: typeOf},
	{name: "expire", arity: -3, group: "generic", summary: "Makes a key expire, in seconds.", first: 1, last: 1, step: 1, writes: true, keys: expire},
	{name: "pexpire", arity: -3, group: "generic", summary: "Makes a key expire, in milliseconds.", first: 1, last: 1, step: 1, writes: true, keys: expire},
	{name: "expireat", arity: -3, group: "generic", summary: "Makes a key expire at a Unix time in seconds.", first: 1, last: 1, step: 1, writes: true, keys: expire},
	{name: "pexpireat", arity: -3, group: "generic", summary: "Makes a key expire at a Unix time in milliseconds.", first: 1, last: 1, step: 1, writes: true, keys: expire},
	{name: "ttl", arity: 2, group: "generic", summary: "Returns the time until a key expires, in seconds.", first: 1, last: 1, step: 1, keys: ttl},
	{name: "pttl", arity: 2, group: "generic", summary: "Returns the time until a key expires, in milliseconds.", first: 1, last: 1, step: 1, keys: ttl},
	{name: "expiretime", arity: 2, group: "generic", summary: "Returns when a key expires, as a Unix time in seconds.", first: 1, last: 1, step: 1, keys: ttl},
	{name: "pexpiretime", arity: 2, group: "generic", summary: "Returns when a key expires, as a Unix time in milliseconds.", first: 1, last: 1, step: 1, keys: ttl},
	{name: "persist", arity: 2, group: "generic", summary: "Removes a key's expiry.", first: 1, last: 1, step: 1, writes: true, keys: persist},
	{name: "keys", arity: 2, group: "generic", summary: "Returns all keys that match a pattern.", keys: keys},
	{name: "scan", arity: -2, group: "generic", summary: "Iterates over the keys.", keys: scan},
	{name: "dbsize", arity: 1, group: "server", summary: "Returns the number of keys.", keys: dbsize},
	{name: "flushdb", arity: -1, group: "server", summary: "Deletes all keys of the database.", writes: true, keys: flush},
	{name: "flushall", arity: -1, group: "server", summary: "Deletes all keys of all databases.", writes: true, keys: flush},
	{name: "time", arity: 1, group: "server", summary: "Returns the server's time: Unix seconds, and microseconds.", keys: timeOf},
}

func del(c call, args [][]byte) {
	n := 0
	for _, key := range args[1:] {
		if e := c.store.get(c.db, key); e != nil {
			c.store.remove(e)
			n++
		}
	}
	c.reply.integer(n)
}

func exists(c call, args [][]byte) {
	n := 0
	for _, key := range args[1:] {
		if c.store.get(c.db, key) != nil {
			n++
		}
	}
	c.reply.integer(n)
}

func typeOf(c call, args [][]byte) {
	if c.store.get(c.db, args[1]) != nil {
		c.reply.status("string")
	} else {
		c.reply.status("none")
	}
}

// deadline returns when a key expires that lasts n units, or that expires at n units of
// Unix time if absolute. It reports false for more than 146 years, or after 2116.
func (s *store) deadline(n int, unit time.Duration, absolute bool) (time.Duration, bool) {
	if most := math.MaxInt64 / 2 / int(unit); n > most || n < -most {
		return 0, false
	}
	d := time.Duration(n) * unit
	if absolute {
		d -= time.Duration(time.Now().UnixNano())
	}
	return s.now() + d, true
}

func expire(c call, args [][]byte) {
	name := strings.ToLower(string(args[0]))
	unit, absolute := time.Second, strings.HasSuffix(name, "at")
	if name[0] == 'p' {
		unit = time.Millisecond
	}
	var onlyNew, onlyOld, onlyLater, onlySooner bool
	for _, arg := range args[3:] {
		switch {
		case option(arg, "nx"):
			onlyNew = true
		case option(arg, "xx"):
			onlyOld = true
		case option(arg, "gt"):
			onlyLater = true
		case option(arg, "lt"):
			onlySooner = true
		default:
			c.reply.error("ERR Unsupported option " + string(arg[:min(len(arg), 128)]))
			return
		}
	}
	if onlyNew && (onlyOld || onlyLater || onlySooner) || onlyLater && onlySooner {
		c.reply.error("ERR NX and XX, GT or LT options at the same time are not compatible")
		return
	}
	n, ok := number(args[2])
	if !ok {
		c.reply.error(errInteger)
		return
	}
	deadline, ok := c.store.deadline(n, unit, absolute)
	if !ok {
		c.reply.error("ERR invalid expire time in '" + name + "' command")
		return
	}
	e := c.store.get(c.db, args[1])
	switch {
	case e == nil,
		onlyNew && e.deadline != 0,
		onlyOld && e.deadline == 0,
		onlyLater && (e.deadline == 0 || deadline <= e.deadline),
		onlySooner && e.deadline != 0 && deadline >= e.deadline:
		c.reply.integer(0)
		return
	case deadline <= c.store.now():
		c.store.remove(e)
	default:
		c.store.setDeadline(e, deadline)
	}
	c.reply.integer(1)
}

func ttl(c call, args [][]byte) {
	name := strings.ToLower(string(args[0]))
	e := c.store.get(c.db, args[1])
	if e == nil {
		c.reply.integer(-2)
		return
	}
	if e.deadline == 0 {
		c.reply.integer(-1)
		return
	}
	left := e.deadline - c.store.now()
	if strings.HasSuffix(name, "time") {
		left += time.Duration(time.Now().UnixNano())
	}
	if name[0] == 'p' {
		c.reply.integer(int(left.Round(time.Millisecond) / time.Millisecond))
	} else {
		c.reply.integer(int(left.Round(time.Second) / time.Second))
	}
}

func persist(c call, args [][]byte) {
	e := c.store.get(c.db, args[1])
	expires := e != nil && e.deadline != 0
	if expires {
		c.store.setDeadline(e, 0)
	}
	c.reply.boolean(expires)
}

func keys(c call, args [][]byte) {
	found := []string{}
	pattern := string(args[1])
	c.store.scan(c.db, 0, math.MaxInt, func(e *entry) {
		if match(pattern, e.key) {
			found = append(found, e.key)
		}
	})
	c.reply.array(len(found))
	for _, key := range found {
		c.reply.bulk(key)
	}
}

func scan(c call, args [][]byte) {
	cursor, ok := number(args[1])
	if !ok || cursor < 0 {
		c.reply.error("ERR invalid cursor")
		return
	}
	count, pattern, kind := 10, "*", "string"
	for rest := args[2:]; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 {
			c.reply.error(errSyntax)
			return
		}
		switch value := rest[1]; {
		case option(rest[0], "count"):
			if count, ok = number(value); !ok || count < 1 {
				c.reply.error(errInteger)
				return
			}
		case option(rest[0], "match"):
			pattern = string(value)
		case option(rest[0], "type"):
			kind = strings.ToLower(string(value))
		default:
			c.reply.error(errSyntax)
			return
		}
	}
	found := []string{}
	next := c.store.scan(c.db, cursor, count, func(e *entry) {
		if kind == "string" && match(pattern, e.key) {
			found = append(found, e.key)
		}
	})
	c.reply.array(2)
	c.reply.bulk(strconv.Itoa(next))
	c.reply.array(len(found))
	for _, key := range found {
		c.reply.bulk(key)
	}
}

func dbsize(c call, _ [][]byte) {
	c.store.sweep(math.MaxInt)
	c.reply.integer(len(c.store.dbs[c.db].list))
}

func flush(c call, args [][]byte) {
	if len(args) > 2 || len(args) == 2 && !option(args[1], "sync") && !option(args[1], "async") {
		c.reply.error(errSyntax)
		return
	}
	if option(args[0], "flushall") {
		for db := range c.store.dbs {
			c.store.flush(db)
		}
	} else {
		c.store.flush(c.db)
	}
	c.reply.status("OK")
}

func timeOf(c call, _ [][]byte) {
	now := time.Now()
	c.reply.array(2)
	c.reply.bulk(strconv.FormatInt(now.Unix(), 10))
	c.reply.bulk(strconv.Itoa(now.Nanosecond() / 1000))
}

var stringCommands = []*command{
	{name: "get", arity: 2, group: "string", summary: "Returns a key's value.", first: 1, last: 1, step: 1, keys: get},
	{name: "set", arity: -3, group: "string", summary: "Sets a key's value.", first: 1, last: 1, step: 1, writes: true, keys: set},
	{name: "setnx", arity: 3, group: "string", summary: "Sets a key's value if the key does not exist.", first: 1, last: 1, step: 1, writes: true, keys: setnx},
	{name: "setex", arity: 4, group: "string", summary: "Sets a key's value and the seconds until it expires.", first: 1, last: 1, step: 1, writes: true, keys: setex},
	{name: "psetex", arity: 4, group: "string", summary: "Sets a key's value and the milliseconds until it expires.", first: 1, last: 1, step: 1, writes: true, keys: setex},
	{name: "getset", arity: 3, group: "string", summary: "Sets a key's value and returns the one before.", first: 1, last: 1, step: 1, writes: true, keys: getset},
	{name: "getdel", arity: 2, group: "string", summary: "Returns a key's value and deletes the key.", first: 1, last: 1, step: 1, writes: true, keys: getdel},
	{name: "getex", arity: -2, group: "string", summary: "Returns a key's value and sets when it expires.", first: 1, last: 1, step: 1, writes: true, keys: getex},
	{name: "mget", arity: -2, group: "string", summary: "Returns the values of several keys.", first: 1, last: -1, step: 1, keys: mget},
	{name: "mset", arity: -3, group: "string", summary: "Sets the values of several keys.", first: 1, last: -1, step: 2, writes: true, keys: mset},
	{name: "append", arity: 3, group: "string", summary: "Appends to a key's value.", first: 1, last: 1, step: 1, writes: true, keys: appendTo},
	{name: "strlen", arity: 2, group: "string", summary: "Returns the length of a key's value.", first: 1, last: 1, step: 1, keys: strlen},
	{name: "incr", arity: 2, group: "string", summary: "Adds 1 to a key's number.", first: 1, last: 1, step: 1, writes: true, keys: incr},
	{name: "decr", arity: 2, group: "string", summary: "Subtracts 1 from a key's number.", first: 1, last: 1, step: 1, writes: true, keys: incr},
	{name: "incrby", arity: 3, group: "string", summary: "Adds to a key's number.", first: 1, last: 1, step: 1, writes: true, keys: incr},
	{name: "decrby", arity: 3, group: "string", summary: "Subtracts from a key's number.", first: 1, last: 1, step: 1, writes: true, keys: incr},
}

// value writes the entry's value.
func (c call) value(e *entry) {
	if e == nil {
		c.store.counts.misses++
		c.reply.null()
		return
	}
	c.store.counts.hits++
	c.reply.bulk(e.value)
}

// put stores a value and reports whether it did. Otherwise it has written the error.
func (c call) put(key, value []byte, deadline time.Duration) bool {
	if len(key) > maxKey {
		c.reply.error(errKey)
		return false
	}
	if err := c.store.put(c.db, key, value, deadline); err != nil {
		c.reply.error(err.Error())
		return false
	}
	return true
}

func get(c call, args [][]byte) { c.value(c.store.get(c.db, args[1])) }

// lifetime parses EX, PX, EXAT or PXAT and its number. ok is false if name is another
// word, and failed is the error if the number is not valid.
func (c call) lifetime(command string, name, value []byte) (deadline time.Duration, ok bool, failed string) {
	unit, absolute := time.Second, false
	switch {
	case option(name, "ex"):
	case option(name, "px"):
		unit = time.Millisecond
	case option(name, "exat"):
		absolute = true
	case option(name, "pxat"):
		unit, absolute = time.Millisecond, true
	default:
		return 0, false, ""
	}
	n, numeric := number(value)
	if !numeric {
		return 0, true, errInteger
	}
	deadline, fits := c.store.deadline(n, unit, absolute)
	if !fits || n <= 0 {
		return 0, true, "ERR invalid expire time in '" + command + "' command"
	}
	return max(deadline, 1), true, ""
}

func set(c call, args [][]byte) {
	var onlyNew, onlyOld, keep, old bool
	var deadline time.Duration
	for rest := args[3:]; len(rest) > 0; rest = rest[1:] {
		switch {
		case option(rest[0], "nx") && !onlyOld:
			onlyNew = true
		case option(rest[0], "xx") && !onlyNew:
			onlyOld = true
		case option(rest[0], "keepttl") && deadline == 0:
			keep = true
		case option(rest[0], "get"):
			old = true
		case len(rest) > 1 && deadline == 0 && !keep:
			d, ok, failed := c.lifetime("set", rest[0], rest[1])
			if !ok {
				failed = errSyntax
			}
			if failed != "" {
				c.reply.error(failed)
				return
			}
			deadline, rest = d, rest[1:]
		default:
			c.reply.error(errSyntax)
			return
		}
	}
	e := c.store.get(c.db, args[1])
	var before string
	existed := e != nil
	if existed {
		before = e.value
		if keep {
			deadline = e.deadline
		}
	}
	done := !(onlyNew && existed || onlyOld && !existed)
	if done && !c.put(args[1], args[2], deadline) {
		return
	}
	switch {
	case old && existed:
		c.reply.bulk(before)
	case old || !done:
		c.reply.null()
	default:
		c.reply.status("OK")
	}
}

func setnx(c call, args [][]byte) {
	if c.store.get(c.db, args[1]) != nil {
		c.reply.integer(0)
	} else if c.put(args[1], args[2], 0) {
		c.reply.integer(1)
	}
}

func setex(c call, args [][]byte) {
	name, unit := strings.ToLower(string(args[0])), "ex"
	if name == "psetex" {
		unit = "px"
	}
	deadline, _, failed := c.lifetime(name, []byte(unit), args[2])
	if failed != "" {
		c.reply.error(failed)
	} else if c.put(args[1], args[3], deadline) {
		c.reply.status("OK")
	}
}

func getset(c call, args [][]byte) {
	set(c, [][]byte{args[0], args[1], args[2], []byte("get")})
}

func getdel(c call, args [][]byte) {
	e := c.store.get(c.db, args[1])
	c.value(e)
	if e != nil {
		c.store.remove(e)
	}
}

func getex(c call, args [][]byte) {
	var deadline time.Duration
	changes := len(args) > 2
	switch {
	case len(args) == 3 && option(args[2], "persist"):
	case len(args) == 4:
		var ok bool
		var failed string
		if deadline, ok, failed = c.lifetime("getex", args[2], args[3]); !ok {
			failed = errSyntax
		}
		if failed != "" {
			c.reply.error(failed)
			return
		}
	case changes:
		c.reply.error(errSyntax)
		return
	}
	e := c.store.get(c.db, args[1])
	c.value(e)
	if e != nil && changes {
		c.store.setDeadline(e, deadline)
	}
}

func mget(c call, args [][]byte) {
	c.reply.array(len(args) - 1)
	begin := len(c.reply.out)
	for _, key := range args[1:] {
		if c.value(c.store.get(c.db, key)); len(c.reply.out)-begin > maxReplies {
			return // do rejects the command
		}
	}
}

func mset(c call, args [][]byte) {
	if len(args)%2 == 0 {
		c.reply.error("ERR wrong number of arguments for 'mset' command")
		return
	}
	for pair := args[1:]; len(pair) > 0; pair = pair[2:] {
		if !c.put(pair[0], pair[1], 0) {
			return
		}
	}
	c.reply.status("OK")
}

func appendTo(c call, args [][]byte) {
	var value []byte
	var deadline time.Duration
	if e := c.store.get(c.db, args[1]); e != nil {
		value, deadline = []byte(e.value), e.deadline
	}
	if len(value)+len(args[2]) > maxRequest {
		c.reply.error("ERR string exceeds maximum allowed size")
		return
	}
	value = append(value, args[2]...)
	if c.put(args[1], value, deadline) {
		c.reply.integer(len(value))
	}
}

func strlen(c call, args [][]byte) {
	n := 0
	if e := c.store.get(c.db, args[1]); e != nil {
		n = len(e.value)
	}
	c.reply.integer(n)
}

func incr(c call, args [][]byte) {
	var ok bool
	by := 1
	if len(args) == 3 {
		if by, ok = number(args[2]); !ok {
			c.reply.error(errInteger)
			return
		}
	}
	if args[0][0] == 'd' || args[0][0] == 'D' {
		if by == math.MinInt64 {
			c.reply.error("ERR decrement would overflow")
			return
		}
		by = -by
	}
	n := 0
	var deadline time.Duration
	if e := c.store.get(c.db, args[1]); e != nil {
		if n, ok = number([]byte(e.value)); !ok {
			c.reply.error(errInteger)
			return
		}
		deadline = e.deadline
	}
	if n, ok = add(n, by); !ok {
		c.reply.error("ERR increment or decrement would overflow")
		return
	}
	if c.put(args[1], strconv.AppendInt(nil, int64(n), 10), deadline) {
		c.reply.integer(n)
	}
}

// match reports whether a pattern of KEYS or SCAN matches the text: * and ? as in a
// shell, [a-z], [^a-z], and \ to escape a character. Its time is at most proportional
// to the product of their lengths.
func match(pattern, text string) bool {
	afterStar, mark := -1, 0 // where to continue if what follows the last * does not match
	p, t := 0, 0
	for t < len(text) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			afterStar, mark = p, t
			continue
		}
		if width := matchOne(pattern[p:], text[t]); width > 0 {
			p += width
			t++
			continue
		}
		if afterStar < 0 {
			return false
		}
		mark++
		p, t = afterStar, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne returns how many bytes of the pattern match the character, 0 if none.
func matchOne(pattern string, c byte) int {
	if pattern == "" {
		return 0
	}
	switch {
	case pattern[0] == '?':
		return 1
	case pattern[0] == '\\' && len(pattern) > 1:
		if pattern[1] == c {
			return 2
		}
		return 0
	case pattern[0] != '[':
		if pattern[0] == c {
			return 1
		}
		return 0
	}
	i, not, found := 1, false, false
	if i < len(pattern) && pattern[i] == '^' {
		not = true
		i++
	}
	for i < len(pattern) && pattern[i] != ']' {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		low, high := pattern[i], pattern[i]
		i++
		if i+1 < len(pattern) && pattern[i] == '-' {
			high = pattern[i+1]
			i += 2
		}
		found = found || min(low, high) <= c && c <= max(low, high)
	}
	if i < len(pattern) {
		i++ // the ]
	}
	if found == not {
		return 0
	}
	return i
}

// splitKeys separates a script's keys from its arguments.
func splitKeys(args [][]byte) (keys, rest [][]byte, failed string) {
	n, ok := number(bytes.TrimSpace(args[0]))
	switch {
	case !ok:
		return nil, nil, errInteger
	case n < 0:
		return nil, nil, "ERR Number of keys can't be negative"
	case n > len(args)-1:
		return nil, nil, "ERR Number of keys can't be greater than number of args"
	}
	return args[1 : 1+n], args[1+n:], ""
}
