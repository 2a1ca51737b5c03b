package redis

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/kiosk-shop/kiosk/shared/telemetry"
)

var (
	failures = telemetry.NewCounter("kiosk.redis.unavailable", "{failure}", "times that Redis did not answer and was left alone")
	hits     = telemetry.NewCounter("kiosk.limits.hit", "{refusal}", "requests that were too many")

	system = attribute.String("db.system.name", "redis")
)

var limited = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("kiosk.limit.name", name)}
}}

// limitName returns the part of a limit's key that says which limit it is.
func limitName(key string) string {
	name, rest, _ := strings.Cut(key, ":")
	if name == "login" {
		kind, _, _ := strings.Cut(rest, ":")
		name += ":" + kind
	}
	return name
}

// commands and failed are the attributes of commands by name, of those that succeeded
// and of those that did not.
var (
	commands = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue {
		return []attribute.KeyValue{system, attribute.String("db.operation.name", strings.ToUpper(name))}
	}}
	failed = telemetry.Known[string]{Make: func(name string) []attribute.KeyValue {
		return append(commands.Make(name), attribute.String("error.type", "_OTHER"))
	}}
)

// observer makes a span of each command whose caller is recorded, and measures
// all. Of a command it records the name: keys hold addresses and accounts.
type observer struct{}

func (observer) DialHook(next redis.DialHook) redis.DialHook { return next }

func (observer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if greets(cmd) {
			return next(ctx, cmd)
		}
		return observe(ctx, cmd.Name(), func(ctx context.Context) error { return next(ctx, cmd) })
	}
}

func (observer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if len(cmds) == 0 || greets(cmds[0]) {
			return next(ctx, cmds)
		}
		return observe(ctx, "pipeline", func(ctx context.Context) error { return next(ctx, cmds) })
	}
}

// greets reports whether a command is a connection's beginning, some of which not
// every server knows.
func greets(cmd redis.Cmder) bool {
	switch cmd.Name() {
	case "hello", "client", "auth", "select", "readonly":
		return true
	}
	return false
}

// observe runs a command of a name, in lower case.
func observe(ctx context.Context, name string, run func(context.Context) error) error {
	began := time.Now()
	var span trace.Span
	recorded := telemetry.Recorded(ctx)
	if recorded {
		ctx, span = telemetry.Begin(ctx, trace.SpanKindClient, strings.ToUpper(name), commands.List(name)...)
	}
	err := run(ctx)
	failure := err
	if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "NOSCRIPT") { // the answer to a question
		failure = nil
	}
	durations := &commands
	if failure != nil {
		durations = &failed
	}
	telemetry.Operations.Record(ctx, time.Since(began), durations.Of(name))
	if recorded {
		telemetry.End(span, failure)
	}
	return err
}

// Waiting returns how many copies could not be dropped yet.
func (c *Client) Waiting() int { return c.overdue.waiting() }
