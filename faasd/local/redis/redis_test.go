package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// start serves s on a port of its own.
func start(t *testing.T, s *server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// wire is a connection on which a test sees every byte.
type wire struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return &wire{t, conn, bufio.NewReader(conn)}
}

func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w.conn, text); err != nil {
		w.t.Fatal(err)
	}
}

func encode(args ...string) string {
	text := fmt.Sprintf("*%d\r\n", len(args))
	for _, arg := range args {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(arg), arg)
	}
	return text
}

// read returns one reply in a short form: +OK, -ERR ..., :1, "text", nil,
// [a b].
func (w *wire) read() string {
	w.t.Helper()
	line, err := w.in.ReadString('\n')
	if err != nil {
		w.t.Fatalf("no reply: %v", err)
	}
	line = strings.TrimSuffix(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '_':
		return "nil"
	case '$':
		if n < 0 {
			return "nil"
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(w.in, text); err != nil {
			w.t.Fatal(err)
		}
		return strconv.Quote(string(text[:n]))
	case '*', '%':
		if line[0] == '%' {
			n *= 2
		}
		items := make([]string, n)
		for i := range items {
			items[i] = w.read()
		}
		return "[" + strings.Join(items, " ") + "]"
	}
	return line
}

func (w *wire) ask(args ...string) string {
	w.t.Helper()
	w.send(encode(args...))
	return w.read()
}

// ended waits for the server to end the connection.
func (w *wire) ended() {
	w.t.Helper()
	if b, err := w.in.ReadByte(); err == nil {
		w.t.Errorf("the connection goes on, with %q", b)
	}
}

// TestConversation is what a real Redis answers, too: with REDIS_ADDR it is
// asked the same, on database 9, which is emptied.
func TestConversation(t *testing.T) {
	addrs := map[string]string{"ours": start(t, newServer("", maxMemory))}
	if addr := os.Getenv("REDIS_ADDR"); addr != "" {
		addrs["REDIS_ADDR"] = addr
	}
	for name, addr := range addrs {
		t.Run(name, func(t *testing.T) {
			w := dial(t, addr)
			for _, turn := range conversation {
				command, want, _ := strings.Cut(turn, " => ")
				args := strings.Fields(command)
				for i := range args {
					args[i] = strings.NewReplacer("~", " ", "∅", "").Replace(args[i])
				}
				got := w.ask(args...)
				if prefix, ok := strings.CutSuffix(want, "..."); ok && strings.HasPrefix(got, prefix) {
					continue
				}
				if got != want {
					t.Errorf("%s: %s, want %s", command, got, want)
				}
			}
		})
	}
}

// conversation: a command, in which ~ is a space and ∅ nothing, and its reply.
var conversation = []string{
	`select 9 => +OK`, `flushdb => +OK`, `select 16 => -ERR DB index is out of range`, `select x => -ERR ...`,
	`PiNg => +PONG`, `ping hello => "hello"`, `echo a~b => "a b"`,
	`nosuch a => -ERR unknown command 'nosuch'...`, `get => -ERR wrong number of arguments for 'get' command`, `get a b => -ERR wrong number of arguments for 'get' command`,

	`get a => nil`, `set a 1 => +OK`, `get a => "1"`, `set a ∅ => +OK`, `get a => ""`, `strlen a => :0`, `type a => +string`, `type b => +none`,
	`set a 2 nx => nil`, `set b 2 xx => nil`, `set b 2 nx => +OK`, `set b 3 xx get => "2"`, `set c 1 get => nil`, `get c => "1"`,
	`set a 1 nx xx => -ERR syntax error`, `set a 1 ex => -ERR syntax error`, `set a 1 ex 0 => -ERR invalid expire time in 'set' command`,
	`set a 1 ex x => -ERR value is not an integer or out of range`, `set a 1 px -5 => -ERR invalid expire time in 'set' command`,
	`set a 1 ex 10 px 10 => -ERR syntax error`, `set a 1 ex 10 keepttl => -ERR syntax error`, `set a 1 ex 9223372036854775807 => -ERR invalid expire time in 'set' command`,
	`set a 1 nx get => ""`,
	`setnx a 5 => :0`, `setnx n 5 => :1`, `setex x 100 v => +OK`, `ttl x => :100`, `psetex x 100000 v => +OK`, `ttl x => :100`, `setex x 0 v => -ERR invalid expire time in 'setex' command`,
	`set x w keepttl => +OK`, `ttl x => :100`, `set x w => +OK`, `ttl x => :-1`, `ttl nosuch => :-2`, `pttl nosuch => :-2`, `pttl x => :-1`,
	`getset x y => "w"`, `getdel x => "y"`, `getdel x => nil`, `exists x a a n => :3`, `touch x a => :1`,
	`getex n ex 50 => "5"`, `ttl n => :50`, `getex n => "5"`, `ttl n => :50`, `getex n persist => "5"`, `ttl n => :-1`, `getex n foo => -ERR syntax error`, `getex nosuch ex 5 => nil`,
	`mset k 1 l 2 => +OK`, `mset k => -ERR wrong number of arguments for 'mset' command`, `mset k 1 l => -ERR wrong number of arguments for 'mset' command`, `mget k nosuch l => ["1" nil "2"]`,
	`append k 23 => :3`, `append new 1 => :1`, `get k => "123"`, `strlen k => :3`, `strlen nosuch => :0`,
	`incr k => :124`, `decr k => :123`, `incrby k 10 => :133`, `decrby k 33 => :100`, `incr a => -ERR value is not an integer or out of range`, `incrby k x => -ERR value is not an integer or out of range`,
	`set k 9223372036854775807 => +OK`, `incr k => -ERR increment or decrement would overflow`, `decrby k -9223372036854775808 => -ERR decrement would overflow`, `incr counter => :1`,
	`set k 01 => +OK`, `incr k => -ERR value is not an integer or out of range`, `set k -9223372036854775808 => +OK`, `decr k => -ERR increment or decrement would overflow`,
	`setex e 100 1 => +OK`, `incr e => :2`, `ttl e => :100`, `append e 0 => :2`, `ttl e => :100`,

	`expire k 100 => :1`, `expire nosuch 100 => :0`, `ttl k => :100`, `persist k => :1`, `persist k => :0`, `persist nosuch => :0`, `pexpire k 100000 nx => :1`, `expire k 200 nx => :0`,
	`expire k 200 gt => :1`, `expire k 100 gt => :0`, `expire k 100 lt => :1`, `expire k 200 lt => :0`, `expire k 200 xx => :1`, `expire l 200 xx => :0`, `expire l 200 gt => :0`, `expire l 200 lt => :1`,
	`expire k 1 nx xx => -ERR NX and XX, GT or LT options at the same time are not compatible`, `expire k 1 zz => -ERR Unsupported option zz`, `expire k x => -ERR value is not an integer or out of range`,
	`expire k -1 => :1`, `exists k => :0`, `set k 1 => +OK`, `expireat k 1 => :1`, `exists k => :0`, `set k 1 => +OK`, `pexpireat k 4102444800000 => :1`, `pexpiretime k => :4102444800000`, `expiretime k => :4102444800`,
	`expiretime nosuch => :-2`, `expire k 9223372036854775807 => -ERR invalid expire time in 'expire' command`,
	`set k 1 exat 4102444800 => +OK`, `expiretime k => :4102444800`, `set k 1 pxat 1 => +OK`, `exists k => :0`,

	`flushdb => +OK`, `dbsize => :0`, `mset one 1 two 2 three 3 => +OK`, `dbsize => :3`, `keys t*e => ["three"]`, `keys nosuch* => []`, `scan 0 match o* count 100 => ["0" ["one"]]`,
	`scan 0 count 100 type hash => ["0" []]`, `scan x => -ERR invalid cursor`, `scan 0 count 0 => -ERR ...`, `scan 0 foo bar => -ERR syntax error`, `scan 0 match => -ERR syntax error`,
	`del one two nosuch => :2`, `unlink three => :1`, `dbsize => :0`,
	`set a 1 => +OK`, `select 8 => +OK`, `get a => nil`, `select 9 => +OK`, `flushdb async => +OK`, `flushdb now => -ERR syntax error`,

	`eval return~1 0 => :1`, `eval return~{1,2,{'a',false,3.9}} 0 => [:1 :2 ["a" nil :3]]`, `eval return~redis.status_reply('FINE') 0 => +FINE`, `eval return~redis.error_reply('MY~ERR') 0 => -MY ERR`,
	`eval return~{KEYS[1],ARGV[1],#ARGV} 1 k v w => ["k" "v" :2]`, `eval return~redis.call('get','k') 0 => nil`, `eval return~redis.call('set','k',1.5) 0 => +OK`, `get k => "1.5"`,
	`eval return~redis.call('set','k',7) 0 => +OK`, `get k => "7"`, `eval return~redis.call('incr',KEYS[1])+1 1 k => :9`,
	`eval return~redis.call('mget','k','nosuch')[2]==false 0 => :1`, `eval return~redis.pcall('incr')['err']:sub(1,3) 0 => "ERR"`, `eval redis.call('incr','k','x') 0 => -ERR ...`,
	`eval return~redis.call('nosuch') 0 => -ERR ...`, `eval return~redis.call('auth','x') 0 => -ERR ...`, `eval return~redis.call() 0 => -ERR ...`, `eval return~redis.call({}) 0 => -ERR ...`,
	`eval foo=1 0 => -ERR ...`, `eval return~nosuch() 0 => -ERR ...`, `eval return~( 0 => -ERR ...`, `eval return~{} x => -ERR ...`, `eval return~1 -1 => -ERR Number of keys can't be negative`, `eval return~1 2 k => -ERR Number of keys can't be greater than number of args`,
	`eval return~true 0 => :1`, `eval return~false 0 => nil`, `eval return 0 => nil`, `eval return~{1,nil,2} 0 => [:1]`, `eval return~tostring(1.5) 0 => "1.5"`, `eval return~('x'):rep(3)..table.concat({1,2})..math.max(1,2) 0 => "xxx122"`,
	`eval return~redis.sha1hex('') 0 => "da39a3ee5e6b4b0d3255bfef95601890afd80709"`,
	`script load return~42 => "1fa00e76656cc152ad327c13fe365858fd7be306"`, `evalsha 1FA00e76656cc152ad327c13fe365858fd7be306 0 => :42`, `script exists 1fa00e76656cc152ad327c13fe365858fd7be306 00 => [:1 :0]`,
	`script flush => +OK`, `evalsha 1fa00e76656cc152ad327c13fe365858fd7be306 0 => -NOSCRIPT No matching script. Please use EVAL.`, `script foo => -ERR ...`,
	`client setname me => +OK`, `client getname => "me"`, `client setname a~b => -ERR Client names cannot contain spaces...`, `client nosuch => -ERR ...`,
	`command info get => [["get" :2 ...`, `command info nosuch => [nil]`, `config get save nosuch => ["save" ""]`, `config nosuch => -ERR ...`,
	`auth x => -ERR AUTH <password> called without any password configured for the default user...`, `auth default x => +OK`, `auth a b c => -ERR syntax error`, `hello 4 => -NOPROTO ...`,
	`hello 3 => ["server" "redis" "version" ...`, `get nosuch => nil`, `eval return~false 0 => nil`, `hello 2 => ["server" ...`, `reset => +RESET`, `client getname => nil`, `quit => +OK`,
}

// TestNulls: a null has a form of its own in each version of the protocol.
func TestNulls(t *testing.T) {
	w := dial(t, start(t, newServer("", maxMemory)))
	for version, want := range map[string]string{"2": "$-1\r\n", "3": "_\r\n"} {
		w.ask("hello", version)
		w.send(encode("get", "nosuch"))
		if line, err := w.in.ReadString('\n'); err != nil || line != want {
			t.Errorf("in version %s: %q, %v", version, line, err)
		}
	}
}

func TestClient(t *testing.T) {
	for _, protocol := range []int{2, 3} {
		addr, ctx := start(t, newServer("secret", maxMemory)), t.Context()
		c := redis.NewClient(&redis.Options{Addr: addr, Password: "secret", Protocol: protocol, DB: 3, ClientName: "test"})
		defer c.Close()
		if err := c.Set(ctx, "k", "v", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		if value, err := c.Get(ctx, "k").Result(); err != nil || value != "v" {
			t.Errorf("%q, %v", value, err)
		}
		if _, err := c.Get(ctx, "nosuch").Result(); !errors.Is(err, redis.Nil) {
			t.Errorf("a key that is not there: %v", err)
		}
		if n, err := redis.NewScript("return redis.call('strlen', KEYS[1])").Run(ctx, c, []string{"k"}).Int(); err != nil || n != 1 {
			t.Errorf("a script: %d, %v", n, err)
		}
		pipe := c.Pipeline()
		for i := range 1000 {
			pipe.Incr(ctx, strconv.Itoa(i%10))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if value, err := c.MGet(ctx, "0", "9", "nosuch").Result(); err != nil || fmt.Sprint(value) != "[100 100 <nil>]" {
			t.Errorf("after a pipeline: %v, %v", value, err)
		}
		if name, err := c.ClientGetName(ctx).Result(); err != nil || name != "test" {
			t.Errorf("%q, %v", name, err)
		}
		if commands, err := c.Command(ctx).Result(); err != nil || commands["mset"] == nil || commands["mset"].FirstKeyPos != 1 || commands["mset"].StepCount != 2 {
			t.Errorf("COMMAND: %v, %v", commands["mset"], err)
		}
		if docs, err := c.Do(ctx, "command", "docs").Result(); err != nil || docs == nil {
			t.Errorf("COMMAND DOCS: %v", err)
		}
		if settings, err := c.ConfigGet(ctx, "max*").Result(); err != nil || settings["maxmemory-policy"] != "volatile-ttl" || len(settings) != 3 {
			t.Errorf("CONFIG GET: %v, %v", settings, err)
		}
		text, err := c.Info(ctx, "keyspace", "memory").Result()
		if err != nil || !strings.Contains(text, "db3:keys=11,expires=1,") || !strings.Contains(text, "used_memory:") || strings.Contains(text, "# Server") {
			t.Errorf("INFO: %q, %v", text, err)
		}
	}
}

// TestCommandDocs: redis-cli ends itself where these are not strings.
func TestCommandDocs(t *testing.T) {
	w := dial(t, start(t, newServer("", maxMemory)))
	if got := w.ask("command", "docs", "get", "nosuch"); got != `["get" ["summary" "Returns a key's value." "since" "1.0.0" "group" "string"]]` {
		t.Error(got)
	}
	if all := w.ask("command", "docs"); strings.Count(all, `"group"`) != len(catalogue) {
		t.Errorf("%d commands are described, of %d", strings.Count(all, `"group"`), len(catalogue))
	}
	if got := w.ask("command", "count"); got != fmt.Sprintf(":%d", len(catalogue)) {
		t.Error(got)
	}
}

func TestPassword(t *testing.T) {
	addr := start(t, newServer("secret", maxMemory))
	w := dial(t, addr)
	for _, turn := range []struct {
		command []string
		want    string
	}{
		{[]string{"get", "k"}, "-NOAUTH Authentication required."},
		{[]string{"eval", "return 1", "0"}, "-NOAUTH Authentication required."},
		{[]string{"info"}, "-NOAUTH Authentication required."},
		{[]string{"hello", "3"}, "-NOAUTH "},
		{[]string{"auth", "wrong"}, "-WRONGPASS "},
		{[]string{"auth", ""}, "-WRONGPASS "},
		{[]string{"auth", "somebody", "secret"}, "-WRONGPASS "},
		{[]string{"hello", "3", "auth", "default", "wrong"}, "-WRONGPASS "},
		{[]string{"get", "k"}, "-NOAUTH "},
		{[]string{"hello", "2", "auth", "default", "secret"}, "["},
		{[]string{"get", "k"}, "nil"},
		{[]string{"reset"}, "+RESET"},
		{[]string{"get", "k"}, "-NOAUTH "},
		{[]string{"auth", "secret"}, "+OK"},
		{[]string{"get", "k"}, "nil"},
	} {
		if got := w.ask(turn.command...); !strings.HasPrefix(got, turn.want) {
			t.Errorf("%s: %s, want %s", turn.command, got, turn.want)
		}
	}
	// Who has not authenticated cannot make the server keep a large request.
	w = dial(t, addr)
	w.send(fmt.Sprintf("*2\r\n$3\r\nget\r\n$%d\r\n", maxUnauthenticated))
	if got := w.read(); !strings.HasPrefix(got, "-ERR Protocol error: the request is larger than ") {
		t.Error(got)
	}
	w.ended()
}

// TestBadRequests: each is answered, ends its own connection, and no other.
func TestBadRequests(t *testing.T) {
	addr := start(t, newServer("", maxMemory))
	bystander := dial(t, addr)
	for name, request := range map[string]string{
		"no number of arguments":    "*x\r\n",
		"too many arguments":        "*16385\r\n",
		"a number beyond any":       "*99999999999999999999\r\n",
		"no length":                 "*1\r\n$\r\n",
		"a negative length":         "*1\r\n$-1\r\n",
		"a length beyond any":       "*1\r\n$9223372036854775807\r\n",
		"a length that is too much": "*2\r\n$3\r\nget\r\n$1048576\r\n",
		"not a length":              "*1\r\n:1\r\n",
		"a wrong length":            "*1\r\n$3\r\nping\r\n",
		"a line without end":        strings.Repeat("x", maxLine),
		"a key of more than 1 MB":   encode("get", strings.Repeat("k", maxRequest)),
		"many large arguments":      encode("mset", "a", strings.Repeat("v", maxRequest/2), "b", strings.Repeat("v", maxRequest/2)),
	} {
		t.Run(name, func(t *testing.T) {
			w := dial(t, addr)
			w.send(request)
			if got := w.read(); !strings.HasPrefix(got, "-ERR Protocol error: ") {
				t.Error(got)
			}
			w.ended()
		})
	}
	if got := bystander.ask("ping"); got != "+PONG" {
		t.Errorf("somebody else was answered %s", got)
	}
}

func TestRequests(t *testing.T) {
	addr := start(t, newServer("", maxMemory))
	t.Run("the largest", func(t *testing.T) {
		w := dial(t, addr)
		value := strings.Repeat("v", maxRequest-len("setk"))
		if got := w.ask("set", "k", value); got != "+OK" {
			t.Fatal(got)
		}
		if got := w.ask("get", "k"); got != strconv.Quote(value) {
			t.Errorf("%d bytes came back", len(got))
		}
		if got := w.ask("append", "k", strings.Repeat("v", 10)); !strings.HasPrefix(got, "-ERR string exceeds") {
			t.Error(got)
		}
	})
	t.Run("a long key", func(t *testing.T) {
		w := dial(t, addr)
		if got := w.ask("set", strings.Repeat("k", maxKey), "v"); got != "+OK" {
			t.Error(got)
		}
		for _, command := range [][]string{{"set"}, {"append"}, {"mset"}, {"setnx"}} {
			if got := w.ask(append(command, strings.Repeat("k", maxKey+1), "v")...); got != "-"+errKey {
				t.Errorf("%s: %s", command, got)
			}
		}
	})
	t.Run("by hand", func(t *testing.T) {
		w := dial(t, addr)
		w.send("\r\n  \nPING\r\nset  hand made\nget hand\r\n*0\r\n*-1\r\nping x\n")
		for _, want := range []string{"+PONG", "+OK", `"made"`, `"x"`} {
			if got := w.read(); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
	t.Run("byte by byte", func(t *testing.T) {
		w := dial(t, addr)
		for _, b := range []byte(encode("echo", "slow\r\n")) {
			w.send(string(b))
		}
		if got := w.read(); got != `"slow\r\n"` {
			t.Error(got)
		}
	})
	t.Run("half a command after a whole one", func(t *testing.T) {
		w := dial(t, addr)
		w.send(encode("ping") + "*1\r\n$4")
		if got := w.read(); got != "+PONG" { // before the rest is sent
			t.Error(got)
		}
		w.send("\r\nping\r\n")
		if got := w.read(); got != "+PONG" {
			t.Error(got)
		}
	})
	t.Run("a reply that is too large", func(t *testing.T) {
		w := dial(t, addr)
		many := append([]string{"mget"}, strings.Fields(strings.Repeat("k ", maxReplies/maxRequest+2))...)
		if got := w.ask(many...); !strings.HasPrefix(got, "-ERR the reply is larger than 64 MiB") {
			t.Errorf("%.100s", got)
		}
		if got := w.ask("ping"); got != "+PONG" {
			t.Error(got)
		}
	})
	t.Run("replies that nobody reads", func(t *testing.T) {
		runtime.GC()
		before := heapInUse()
		w := dial(t, addr)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = w.conn.Write(bytes.Repeat([]byte(encode("get", "k")), 1000)) // a gigabyte of replies
		}()
		bystander := dial(t, addr)
		for range 50 {
			if got := bystander.ask("ping"); got != "+PONG" {
				t.Fatal(got)
			}
			if grew := heapInUse() - before; grew > 32<<20 {
				t.Fatalf("the server keeps %d MiB", grew>>20)
			}
			time.Sleep(time.Millisecond)
		}
		w.conn.Close()
		<-done
	})
}

func heapInUse() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestMaxClients(t *testing.T) {
	s := newServer("", maxMemory)
	s.maxClients = 2
	addr := start(t, s)
	first, second := dial(t, addr), dial(t, addr)
	first.ask("ping")
	second.ask("ping")
	third := dial(t, addr)
	if got := third.read(); got != "-ERR max number of clients reached" {
		t.Error(got)
	}
	third.ended()
	if got := second.ask("quit"); got != "+OK" {
		t.Error(got)
	}
	second.ended()
	eventually(t, func() bool { return s.clients() == 1 })
	if got := dial(t, addr).ask("ping"); got != "+PONG" {
		t.Errorf("in the place of one that left: %s", got)
	}
}

func eventually(t *testing.T, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came")
		}
	}
}

// TestScripts: one script leaves nothing behind for the next, and none can do
// more than compute and call Redis, or for long.
func TestScripts(t *testing.T) {
	w := dial(t, start(t, newServer("", maxMemory)))
	for _, bad := range []string{
		"x = 1", "_G.x = 1", "_G['redis'] = nil", "string.format = nil", "redis.call = nil", "math.x = 1", "table.x = 1",
		"setmetatable(_G, {})", "setmetatable(redis, {})", "getmetatable('').__index.format = nil", "rawset(_G, 'x', 1)", "setfenv(1, {})",
		"os.exit(1)", "io.open('/etc/passwd')", "require('os')", "loadstring('return 1')()", "dofile('/etc/passwd')", "coroutine.create(print)", "error('mine')", "local function f() return f() + 1 end return f()",
	} {
		if got := w.ask("eval", bad, "0"); !strings.HasPrefix(got, "-ERR ") {
			t.Errorf("%s: %s", bad, got)
		}
	}
	if got := w.ask("eval", "return {type(x), type(redis.call), ('%d'):format(7), type(KEYS[1]), #ARGV}", "0"); got != `["nil" "function" "7" "nil" :0]` {
		t.Errorf("after all that: %s", got)
	}
	if got := w.ask("eval", "while true do redis.call('get', 'k') end", "0"); got != "-ERR Error running script: it took longer than 1s" {
		t.Error(got)
	}
	if got := w.ask("eval", "local t = {} for i = 1, 20 do t = {t} end return t", "0"); !strings.Contains(got, "-ERR the script's reply is nested deeper than 8 levels") {
		t.Error(got)
	}
	for i := range 2 * maxScripts {
		w.ask("eval", fmt.Sprintf("return %d", i), "0")
	}
	if got := w.ask("eval", "return KEYS[1] .. ARGV[1]", "1", "a", "b"); got != `"ab"` {
		t.Error(got)
	}
}

func TestScriptsAreBounded(t *testing.T) {
	r := newScripts(newStore(maxMemory))
	for i := range 3 * maxScripts {
		if _, _, err := r.load(fmt.Sprintf("return %d", i)); err != nil {
			t.Fatal(err)
		}
		if len(r.known) > maxScripts {
			t.Fatalf("%d scripts are kept", len(r.known))
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"", "", true}, {"", "a", false}, {"a*c", "abbc", true}, {"a*c", "abcd", false}, {"a?c", "abc", true}, {"a?c", "ac", false},
		{"h[ae]llo", "hallo", true}, {"h[ae]llo", "hillo", false}, {"h[^e]llo", "hallo", true}, {"h[^e]llo", "hello", false}, {"h[a-c]llo", "hbllo", true}, {"h[c-a]llo", "hbllo", true}, {"h[a-c]llo", "hdllo", false},
		{`h\*llo`, "h*llo", true}, {`h\*llo`, "hello", false}, {`[\]]`, "]", true}, {"a**b", "ab", true}, {"a*b*c", "a1b2b3c", true}, {"[a", "a", true}, {`a\`, `a\`, true},
	} {
		if got := match(test.pattern, test.text); got != test.want {
			t.Errorf("match(%q, %q) is %v", test.pattern, test.text, got)
		}
	}
	if match(strings.Repeat("a*", 5000)+"b", strings.Repeat("a", maxKey)) { // would take for ever if it tried everything
		t.Error("it fits")
	}
}
