package main

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

const (
	// scriptTime is how long a script may run, which blocks all other commands.
	scriptTime = time.Second
	// maxScripts is how many scripts are kept for EVALSHA. At more, all are dropped,
	// and clients send them again.
	maxScripts = 500
	maxNesting = 8 // levels of a script's reply
)

var scriptCommands = []*command{
	{name: "eval", arity: -3, group: "scripting", summary: "Runs a Lua script.", writes: true, unscripted: true, keys: eval},
	{name: "evalsha", arity: -3, group: "scripting", summary: "Runs a Lua script by its SHA-1.", writes: true, unscripted: true, keys: evalSHA},
	{name: "script", arity: -2, group: "scripting", summary: "Manages the stored scripts: LOAD, EXISTS, FLUSH.", unscripted: true, keys: script},
}

// scripts runs Lua scripts on the store. The caller holds its lock.
type scripts struct {
	state   *lua.LState
	globals *lua.LTable                   // the metatable of a script's globals
	known   map[string]*lua.FunctionProto // by SHA-1 in hexadecimal

	running call // the call whose script is running
	answer  replies
}

func newScripts(s *store) *scripts {
	r := &scripts{known: map[string]*lua.FunctionProto{}}
	r.reset()
	return r
}

// reset creates a Lua state that can only compute and call Redis. Scripts cannot change
// its globals, so no script affects the next one.
func (r *scripts) reset() {
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString, lua.MathLibName: lua.OpenMath,
	} {
		l.Push(l.NewFunction(open))
		l.Push(lua.LString(name))
		l.Call(1, 0)
	}
	globals := l.G.Global
	for _, name := range []string{"collectgarbage", "dofile", "getfenv", "load", "loadfile", "loadstring", "module", "newproxy", "print", "rawset", "require", "setfenv"} {
		globals.RawSetString(name, lua.LNil)
	}
	redis := l.NewTable()
	l.SetFuncs(redis, map[string]lua.LGFunction{
		"call":  func(l *lua.LState) int { return r.call(l, true) },
		"pcall": func(l *lua.LState) int { return r.call(l, false) },
		"error_reply": func(l *lua.LState) int {
			l.Push(single(l, "err", l.CheckString(1)))
			return 1
		},
		"status_reply": func(l *lua.LState) int {
			l.Push(single(l, "ok", l.CheckString(1)))
			return 1
		},
		"sha1hex":            func(l *lua.LState) int { l.Push(lua.LString(digest(l.CheckString(1)))); return 1 },
		"replicate_commands": func(l *lua.LState) int { l.Push(lua.LTrue); return 1 },
		"log":                func(*lua.LState) int { return 0 },
	})
	for i, name := range []string{"LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"} {
		redis.RawSetString(name, lua.LNumber(i))
	}
	globals.RawSetString("redis", redis)
	r.state, r.globals = l, l.NewTable()
	globals.RawSetString("_G", r.globals)
	r.globals.Metatable = readOnly(l, globals, "Script attempted to create a global variable")
	for _, name := range []string{"redis", lua.TabLibName, lua.StringLibName, lua.MathLibName} {
		library := globals.RawGetString(name).(*lua.LTable)
		globals.RawSetString(name, &lua.LTable{Metatable: readOnly(l, library, "Attempt to modify a readonly table")})
	}
	if ofStrings, ok := l.GetMetatable(lua.LString("")).(*lua.LTable); ok {
		ofStrings.RawSetString("__metatable", lua.LFalse)
	}
}

// readOnly returns a metatable for a table that reads from another table, and raises
// an error when it is written.
func readOnly(l *lua.LState, shown *lua.LTable, failure string) *lua.LTable {
	rules := l.CreateTable(0, 3)
	rules.RawSetString("__index", shown)
	rules.RawSetString("__newindex", l.NewFunction(func(l *lua.LState) int {
		l.RaiseError("%s", failure)
		return 0
	}))
	rules.RawSetString("__metatable", lua.LFalse)
	return rules
}

func single(l *lua.LState, name, text string) *lua.LTable {
	t := l.CreateTable(0, 1)
	t.RawSetString(name, lua.LString(text))
	return t
}

func digest(text string) string {
	sum := sha1.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

// load compiles a script and keeps it.
func (r *scripts) load(text string) (string, *lua.FunctionProto, error) {
	sha := digest(text)
	if proto := r.known[sha]; proto != nil {
		return sha, proto, nil
	}
	chunk, err := parse.Parse(strings.NewReader(text), "user_script")
	if err != nil {
		return "", nil, err
	}
	proto, err := lua.Compile(chunk, "user_script")
	if err != nil {
		return "", nil, err
	}
	if len(r.known) >= maxScripts {
		clear(r.known)
	}
	r.known[sha] = proto
	return sha, proto, nil
}

func eval(c call, args [][]byte) {
	_, proto, err := c.scripts.load(string(args[1]))
	if err != nil {
		c.reply.error("ERR Error compiling script: " + err.Error())
		return
	}
	c.scripts.run(c, proto, args[2:])
}

func evalSHA(c call, args [][]byte) {
	proto := c.scripts.known[strings.ToLower(string(args[1]))]
	if proto == nil {
		c.reply.error("NOSCRIPT No matching script. Please use EVAL.")
		return
	}
	c.scripts.run(c, proto, args[2:])
}

func script(c call, args [][]byte) {
	switch {
	case option(args[1], "load") && len(args) == 3:
		sha, _, err := c.scripts.load(string(args[2]))
		if err != nil {
			c.reply.error("ERR Error compiling script: " + err.Error())
			return
		}
		c.reply.bulk(sha)
	case option(args[1], "exists") && len(args) > 2:
		c.reply.array(len(args) - 2)
		for _, sha := range args[2:] {
			c.reply.boolean(c.scripts.known[strings.ToLower(string(sha))] != nil)
		}
	case option(args[1], "flush") && len(args) <= 3:
		clear(c.scripts.known)
		c.reply.status("OK")
	default:
		c.reply.error("ERR unknown subcommand, or wrong number of arguments: SCRIPT knows LOAD, EXISTS and FLUSH")
	}
}

// run runs a script with its keys and arguments, and writes its reply.
func (r *scripts) run(c call, proto *lua.FunctionProto, args [][]byte) {
	keys, rest, failed := splitKeys(args)
	if failed != "" {
		c.reply.error(failed)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTime)
	defer cancel()
	l := r.state
	l.SetContext(ctx)
	r.running = c
	defer func() {
		l.SetTop(0)
		l.RemoveContext()
		r.running = call{}
	}()

	l.G.Global.RawSetString("KEYS", list(l, keys))
	l.G.Global.RawSetString("ARGV", list(l, rest))
	f := l.NewFunctionFromProto(proto)
	f.Env = r.globals
	l.Push(f)
	if err := l.PCall(0, 1, nil); err != nil {
		if ctx.Err() != nil {
			r.reset() // the interrupted script may have left any state
			c.reply.error("ERR Error running script: it took longer than " + scriptTime.String())
			return
		}
		var raised *lua.ApiError
		if errors.As(err, &raised) {
			if t, ok := raised.Object.(*lua.LTable); ok {
				if text := t.RawGetString("err"); text.Type() == lua.LTString {
					c.reply.error(text.String())
					return
				}
			}
			c.reply.error("ERR Error running script: " + raised.Object.String())
			return
		}
		c.reply.error("ERR Error running script: " + err.Error())
		return
	}
	c.reply.fromLua(l.Get(-1), maxNesting)
}

func list(l *lua.LState, texts [][]byte) *lua.LTable {
	t := l.CreateTable(len(texts), 0)
	for _, text := range texts {
		t.Append(lua.LString(text))
	}
	return t
}

// call is redis.call, which raises an error, and redis.pcall, which returns it.
func (r *scripts) call(l *lua.LState, raise bool) int {
	args := make([][]byte, l.GetTop())
	failed := ""
	for i := range args {
		switch v := l.Get(i + 1).(type) {
		case lua.LString:
			args[i] = []byte(v)
		case lua.LNumber:
			args[i] = []byte(formatNumber(float64(v)))
		default:
			failed = "ERR Lua redis lib command arguments must be strings or integers"
		}
	}
	r.answer.out = r.answer.out[:0]
	if len(args) == 0 {
		failed = "ERR Please specify at least one argument for this redis.call() call"
	}
	if failed == "" {
		command := lookUp(args[0])
		switch {
		case command == nil:
			failed = "ERR Unknown Redis command called from script"
		case command.unscripted:
			failed = "ERR This Redis command is not allowed from script"
		case !command.fits(len(args)):
			failed = "ERR Wrong number of args calling Redis command from script"
		default:
			inner := r.running
			inner.reply = &r.answer
			command.keys(inner, args)
		}
	}
	if failed != "" {
		r.answer.error(failed)
	}
	if len(r.answer.out) > maxReplies {
		r.answer.out = nil
		r.answer.error("ERR the reply is too large")
	}
	value, _ := toLua(l, r.answer.out)
	if t, ok := value.(*lua.LTable); ok && raise && t.RawGetString("err") != lua.LNil {
		l.Error(t, 0)
	}
	if cap(r.answer.out) > maxKept {
		r.answer.out = nil
	}
	l.Push(value)
	return 1
}

// formatNumber returns a number as Redis's Lua writes it: integers have no decimal point.
func formatNumber(n float64) string { return strconv.FormatFloat(n, 'g', 17, 64) }

// toLua returns the first reply in data as a Lua value, and the rest of data. data is
// RESP 2 from this server.
func toLua(l *lua.LState, data []byte) (lua.LValue, []byte) {
	end := 1
	for data[end] != '\r' {
		end++
	}
	text, rest := data[1:end], data[end+2:]
	switch data[0] {
	case '+':
		return single(l, "ok", string(text)), rest
	case '-':
		return single(l, "err", string(text)), rest
	}
	n, _ := number(text)
	switch {
	case data[0] == ':':
		return lua.LNumber(n), rest
	case n < 0:
		return lua.LFalse, rest
	case data[0] == '$':
		return lua.LString(rest[:n]), rest[n+2:]
	}
	t := l.CreateTable(n, 0)
	for range n {
		var value lua.LValue
		value, rest = toLua(l, rest)
		t.Append(value)
	}
	return t, rest
}

// fromLua writes a script's result as a reply.
func (w *replies) fromLua(value lua.LValue, depth int) {
	switch v := value.(type) {
	case lua.LString:
		w.bulk(string(v))
	case lua.LNumber:
		w.integer(int(v))
	case lua.LBool:
		if v {
			w.integer(1)
		} else {
			w.null()
		}
	case *lua.LTable:
		if text := v.RawGetString("ok"); text.Type() == lua.LTString {
			w.status(text.String())
			return
		}
		if text := v.RawGetString("err"); text.Type() == lua.LTString {
			w.error(text.String())
			return
		}
		if depth == 0 {
			w.error(fmt.Sprintf("ERR the script's reply is nested deeper than %d levels", maxNesting))
			return
		}
		n := v.Len()
		for i := 1; i <= n; i++ {
			if v.RawGetInt(i) == lua.LNil {
				n = i - 1
			}
		}
		w.array(n)
		for i := 1; i <= n; i++ {
			w.fromLua(v.RawGetInt(i), depth-1)
		}
	default:
		w.null()
	}
}
