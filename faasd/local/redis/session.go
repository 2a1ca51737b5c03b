package main

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// redisVersion is the version of Redis that this server follows.
const redisVersion = "7.0.0"

var sessionCommands = []*command{
	{name: "ping", arity: -1, group: "connection", summary: "Returns PONG, or the message.", unscripted: true, session: ping},
	{name: "echo", arity: 2, group: "connection", summary: "Returns the message.", unscripted: true, session: func(c *conn, args [][]byte) { c.reply.bulk(string(args[1])) }},
	{name: "auth", arity: -2, group: "connection", summary: "Authenticates the connection.", anybody: true, unscripted: true, session: auth},
	{name: "hello", arity: -1, group: "connection", summary: "Chooses the protocol's version, and authenticates.", anybody: true, unscripted: true, session: hello},
	{name: "select", arity: 2, group: "connection", summary: "Chooses the database.", unscripted: true, session: selectDB},
	{name: "quit", arity: -1, group: "connection", summary: "Ends the connection.", anybody: true, unscripted: true, session: quit},
	{name: "reset", arity: 1, group: "connection", summary: "Resets the connection.", anybody: true, unscripted: true, session: reset},
	{name: "client", arity: -2, group: "connection", summary: "Names the connection, or describes it.", unscripted: true, session: client},
	{name: "command", arity: -1, group: "server", summary: "Describes the commands.", unscripted: true, session: describe},
	{name: "config", arity: -2, group: "server", summary: "Returns settings.", unscripted: true, session: config},
	{name: "info", arity: -1, group: "server", summary: "Describes the server.", unscripted: true, session: info},
}

func ping(c *conn, args [][]byte) {
	switch len(args) {
	case 1:
		c.reply.status("PONG")
	case 2:
		c.reply.bulk(string(args[1]))
	default:
		c.reply.error("ERR wrong number of arguments for 'ping' command")
	}
}

const errPassword = "WRONGPASS invalid username-password pair or user is disabled."

// logIn authenticates the only user, default.
func (c *conn) logIn(user string, password []byte) bool {
	if c.server.password == "" || !c.server.authentic(password) || user != "default" {
		return false
	}
	c.authenticated = true
	return true
}

func auth(c *conn, args [][]byte) {
	user := "default"
	if len(args) == 3 {
		user = string(args[1])
	}
	switch {
	case len(args) > 3:
		c.reply.error(errSyntax)
	case c.server.password == "" && len(args) == 2:
		c.reply.error("ERR AUTH <password> called without any password configured for the default user: unset REDIS_PASSWORD, or start the local box with it")
	case c.server.password == "" && user == "default":
		c.reply.status("OK") // as Redis does for a user without a password
	case !c.logIn(user, args[len(args)-1]):
		c.reply.error(errPassword)
	default:
		c.reply.status("OK")
	}
}

func hello(c *conn, args [][]byte) {
	resp3, name := c.reply.resp3, c.name
	if len(args) > 1 {
		switch string(args[1]) {
		case "2":
			resp3 = false
		case "3":
			resp3 = true
		default:
			c.reply.error("NOPROTO unsupported protocol version")
			return
		}
		for rest := args[2:]; len(rest) > 0; {
			switch {
			case option(rest[0], "auth") && len(rest) > 2:
				if user := string(rest[1]); !c.logIn(user, rest[2]) && (c.server.password != "" || user != "default") {
					c.reply.error(errPassword)
					return
				}
				rest = rest[3:]
			case option(rest[0], "setname") && len(rest) > 1 && fitName(rest[1]):
				name, rest = string(rest[1]), rest[2:]
			default:
				c.reply.error("ERR Syntax error in HELLO")
				return
			}
		}
	}
	if !c.authenticated {
		c.reply.error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time")
		return
	}
	c.reply.resp3, c.name = resp3, name
	protocol := 2
	if resp3 {
		protocol = 3
	}
	c.reply.object(7)
	c.reply.bulk("server")
	c.reply.bulk("redis")
	c.reply.bulk("version")
	c.reply.bulk(redisVersion)
	c.reply.bulk("proto")
	c.reply.integer(protocol)
	c.reply.bulk("id")
	c.reply.integer(int(c.id))
	c.reply.bulk("mode")
	c.reply.bulk("standalone")
	c.reply.bulk("role")
	c.reply.bulk("master")
	c.reply.bulk("modules")
	c.reply.array(0)
}

func selectDB(c *conn, args [][]byte) {
	db, ok := number(args[1])
	switch {
	case !ok:
		c.reply.error("ERR invalid DB index")
	case db < 0 || db >= databases:
		c.reply.error("ERR DB index is out of range")
	default:
		c.db = db
		c.reply.status("OK")
	}
}

func quit(c *conn, _ [][]byte) {
	c.quit = true
	c.reply.status("OK")
}

func reset(c *conn, _ [][]byte) {
	c.db, c.name, c.authenticated, c.reply.resp3 = 0, "", c.server.password == "", false
	c.reply.status("RESET")
}

// fitName reports whether a connection may have the name, which must fit on a line.
func fitName(name []byte) bool {
	for _, b := range name {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return len(name) <= 128
}

func client(c *conn, args [][]byte) {
	switch {
	case option(args[1], "id") && len(args) == 2:
		c.reply.integer(int(c.id))
	case option(args[1], "getname") && len(args) == 2:
		if c.name == "" {
			c.reply.null()
		} else {
			c.reply.bulk(c.name)
		}
	case option(args[1], "setname") && len(args) == 3:
		if !fitName(args[2]) {
			c.reply.error("ERR Client names cannot contain spaces, newlines or special characters, or be longer than 128 bytes.")
			return
		}
		c.name = string(args[2])
		c.reply.status("OK")
	case option(args[1], "setinfo") && len(args) == 4:
		c.reply.status("OK") // the client library's name and version are ignored
	case option(args[1], "info") && len(args) == 2:
		c.reply.bulk(fmt.Sprintf("id=%d addr=%s laddr=%s name=%s db=%d\n", c.id, c.net.RemoteAddr(), c.net.LocalAddr(), c.name, c.db))
	default:
		c.reply.error("ERR unknown subcommand, or wrong number of arguments: CLIENT knows ID, GETNAME, INFO, SETINFO and SETNAME")
	}
}

// describe is COMMAND, which describes the commands.
func describe(c *conn, args [][]byte) {
	chosen := make([]*command, 0, len(catalogue))
	if len(args) > 2 {
		for _, name := range args[2:] {
			chosen = append(chosen, lookUp(name))
		}
	} else {
		for _, command := range catalogue {
			chosen = append(chosen, command)
		}
	}
	switch {
	case len(args) == 1 || option(args[1], "info"):
		c.reply.array(len(chosen))
		for _, command := range chosen {
			c.reply.command(command)
		}
	case option(args[1], "count") && len(args) == 2:
		c.reply.integer(len(catalogue))
	case option(args[1], "docs"):
		there := 0
		for _, command := range chosen {
			if command != nil {
				there++
			}
		}
		c.reply.object(there)
		for _, command := range chosen {
			if command != nil {
				c.reply.bulk(command.name)
				c.reply.object(3)
				c.reply.bulk("summary")
				c.reply.bulk(command.summary)
				c.reply.bulk("since")
				c.reply.bulk("1.0.0")
				c.reply.bulk("group")
				c.reply.bulk(command.group)
			}
		}
	default:
		c.reply.error("ERR unknown subcommand, or wrong number of arguments: COMMAND knows COUNT, DOCS and INFO")
	}
}

// command writes COMMAND's description of one command.
func (w *replies) command(c *command) {
	if c == nil {
		w.null()
		return
	}
	w.array(6)
	w.bulk(c.name)
	w.integer(c.arity)
	flags := []string{"fast"}
	if c.writes {
		flags = append(flags, "write")
	} else if c.first > 0 {
		flags = append(flags, "readonly")
	}
	if c.unscripted {
		flags = append(flags, "noscript")
	}
	if c.anybody {
		flags = append(flags, "no_auth")
	}
	w.array(len(flags))
	for _, flag := range flags {
		w.status(flag)
	}
	w.integer(c.first)
	w.integer(c.last)
	w.integer(c.step)
}

// config answers CONFIG GET for the few settings that clients read.
func config(c *conn, args [][]byte) {
	if !option(args[1], "get") || len(args) < 3 {
		c.reply.error("ERR unknown subcommand, or wrong number of arguments: CONFIG knows GET; the local box's Redis has no settings to change")
		return
	}
	settings := [][2]string{
		{"appendonly", "no"}, {"save", ""}, {"databases", strconv.Itoa(databases)}, {"maxclients", strconv.Itoa(c.server.maxClients)},
		{"maxmemory", strconv.Itoa(c.server.store.maxMemory)}, {"maxmemory-policy", "volatile-ttl"},
		{"proto-max-bulk-len", strconv.Itoa(maxRequest)}, {"timeout", "0"},
	}
	var found [][2]string
	for _, setting := range settings {
		for _, pattern := range args[2:] {
			if match(strings.ToLower(string(pattern)), setting[0]) {
				found = append(found, setting)
				break
			}
		}
	}
	c.reply.object(len(found))
	for _, setting := range found {
		c.reply.bulk(setting[0])
		c.reply.bulk(setting[1])
	}
}

// info describes the server, section by section.
func info(c *conn, args [][]byte) {
	s := c.server
	s.store.Lock()
	s.store.sweep(math.MaxInt)
	used, counts := s.store.used, s.store.counts
	var keyspace strings.Builder
	for i := range s.store.dbs {
		if d := &s.store.dbs[i]; len(d.list) > 0 {
			fmt.Fprintf(&keyspace, "db%d:keys=%d,expires=%d,avg_ttl=0\r\n", i, len(d.list), d.expires)
		}
	}
	s.store.Unlock()

	uptime := int(time.Since(s.started).Seconds())
	sections := [][2]string{
		{"Server", fmt.Sprintf("redis_version:%s\r\nredis_mode:standalone\r\nserver_name:kiosk\r\nprocess_id:%d\r\ntcp_port:%d\r\nuptime_in_seconds:%d\r\nuptime_in_days:%d\r\n", redisVersion, os.Getpid(), s.port, uptime, uptime/86400)},
		{"Clients", fmt.Sprintf("connected_clients:%d\r\nmaxclients:%d\r\n", s.clients(), s.maxClients)},
		{"Memory", fmt.Sprintf("used_memory:%d\r\nmaxmemory:%d\r\nmaxmemory_policy:volatile-ttl\r\n", used, s.store.maxMemory)},
		{"Persistence", "loading:0\r\naof_enabled:0\r\n"},
		{"Stats", fmt.Sprintf("total_connections_received:%d\r\ntotal_commands_processed:%d\r\nrejected_connections:%d\r\nexpired_keys:%d\r\nevicted_keys:%d\r\nkeyspace_hits:%d\r\nkeyspace_misses:%d\r\n", s.connections.Load(), s.commands.Load(), s.rejected.Load(), counts.expired, counts.evicted, counts.hits, counts.misses)},
		{"Replication", "role:master\r\nconnected_slaves:0\r\n"},
		{"Keyspace", keyspace.String()},
	}
	var text strings.Builder
	for _, section := range sections {
		wanted := len(args) == 1
		for _, arg := range args[1:] {
			wanted = wanted || option(arg, section[0]) || option(arg, "all") || option(arg, "default") || option(arg, "everything")
		}
		if wanted {
			if text.Len() > 0 {
				text.WriteString("\r\n")
			}
			text.WriteString("# " + section[0] + "\r\n" + section[1])
		}
	}
	c.reply.bulk(text.String())
}
