package command

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"

	"github.com/kiosk-shop/kiosk/faasd/documents/internal/fault"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/store"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/wire"
)

// Commands about the server itself: those that a shell sends when it connects,
// and those for operators.

func buildInfo(r *Request) error {
	r.out = bsoncore.AppendStringElement(r.out, "version", MongoDBVersion)
	r.out = bsoncore.AppendStringElement(r.out, "gitVersion", "kiosk-documents")
	r.out = bsoncore.BuildArrayElement(r.out, "modules")
	r.out = bsoncore.AppendStringElement(r.out, "sysInfo", "deprecated")
	r.out = bsoncore.BuildArrayElement(r.out, "versionArray", value.Int32(4), value.Int32(4), value.Int32(29), value.Int32(0))
	r.out = bsoncore.AppendInt32Element(r.out, "bits", 64)
	r.out = bsoncore.AppendBooleanElement(r.out, "debug", false)
	r.out = bsoncore.AppendInt32Element(r.out, "maxBsonObjectSize", wire.MaxDocument)
	r.out = bsoncore.BuildArrayElement(r.out, "storageEngines", value.String("bbolt"))
	return nil
}

func getParameter(r *Request) error {
	params := bsoncore.BuildDocument(nil,
		bsoncore.BuildDocumentElement(nil, "featureCompatibilityVersion", bsoncore.AppendStringElement(nil, "version", "4.4")),
		bsoncore.BuildArrayElement(nil, "authenticationMechanisms", value.String(mechanism)),
		bsoncore.AppendBooleanElement(nil, "enableTestCommands", r.e.cfg.FailPoints),
		bsoncore.AppendInt32Element(nil, "transactionLifetimeLimitSeconds", int32(r.e.cfg.TxnLifetime/time.Second)))
	all := r.value.Type == bsoncore.TypeString && r.value.StringValue() == "*"
	found := false
	for it := value.Iter(params); it.Next(); {
		if all || !value.Missing(r.field(string(it.Name))) {
			r.out = bsoncore.AppendValueElement(r.out, string(it.Name), it.Value)
			found = true
		}
	}
	if !found {
		return fault.New(fault.InvalidOptions, "no option found to get")
	}
	return nil
}

func getCmdLineOpts(r *Request) error {
	r.out = bsoncore.BuildArrayElement(r.out, "argv", value.String("documents"))
	r.out = bsoncore.BuildDocumentElement(r.out, "parsed")
	return nil
}

func getLog(r *Request) error {
	if r.value.Type != bsoncore.TypeString {
		return r.wrongType("getLog", r.value, "string")
	}
	switch r.value.StringValue() {
	case "*":
		r.out = bsoncore.BuildArrayElement(r.out, "names", value.String("global"), value.String("startupWarnings"))
	case "global":
		r.out = bsoncore.AppendInt32Element(r.out, "totalLinesWritten", 0)
		r.out = bsoncore.BuildArrayElement(r.out, "log")
	case "startupWarnings":
		// A shell shows this line when it connects.
		line := value.String(`{"t":{"$date":"` + r.e.started.UTC().Format(time.RFC3339) + `"},"s":"W","c":"CONTROL","id":22120,"ctx":"initandlisten","msg":"This is Kiosk's embedded document server, made for development and tests"}`)
		r.out = bsoncore.AppendInt32Element(r.out, "totalLinesWritten", 1)
		r.out = bsoncore.BuildArrayElement(r.out, "log", line)
	default:
		return fault.New(fault.IllegalOperation, "no RamLog named: %s", r.value.StringValue())
	}
	return nil
}

func hostInfo(r *Request) error {
	host, _ := os.Hostname()
	r.out = bsoncore.BuildDocumentElement(r.out, "system",
		bsoncore.AppendDateTimeElement(nil, "currentTime", time.Now().UnixMilli()),
		bsoncore.AppendStringElement(nil, "hostname", host),
		bsoncore.AppendInt32Element(nil, "cpuAddrSize", 64),
		bsoncore.AppendInt32Element(nil, "numCores", int32(runtime.NumCPU())),
		bsoncore.AppendStringElement(nil, "cpuArch", runtime.GOARCH))
	r.out = bsoncore.BuildDocumentElement(r.out, "os",
		bsoncore.AppendStringElement(nil, "type", runtime.GOOS),
		bsoncore.AppendStringElement(nil, "name", runtime.GOOS))
	r.out = bsoncore.BuildDocumentElement(r.out, "extra")
	return nil
}

func serverStatus(r *Request) error {
	host, _ := os.Hostname()
	up := time.Since(r.e.started)
	size, reads := r.e.store.Stats()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.out = bsoncore.AppendStringElement(r.out, "host", host)
	r.out = bsoncore.AppendStringElement(r.out, "version", MongoDBVersion)
	r.out = bsoncore.AppendStringElement(r.out, "process", "documents")
	r.out = bsoncore.AppendInt64Element(r.out, "pid", int64(os.Getpid()))
	r.out = bsoncore.AppendDoubleElement(r.out, "uptime", up.Seconds())
	r.out = bsoncore.AppendInt64Element(r.out, "uptimeMillis", up.Milliseconds())
	r.out = bsoncore.AppendDateTimeElement(r.out, "localTime", time.Now().UnixMilli())
	r.out = bsoncore.BuildDocumentElement(r.out, "connections", bsoncore.AppendInt64Element(nil, "current", r.e.conns.Load()))
	r.out = bsoncore.BuildDocumentElement(r.out, "network", bsoncore.AppendInt64Element(nil, "numRequests", r.e.commands.Load()))
	r.out = bsoncore.BuildDocumentElement(r.out, "metrics", bsoncore.BuildDocumentElement(nil, "cursor",
		bsoncore.BuildDocumentElement(nil, "open", bsoncore.AppendInt64Element(nil, "total", int64(r.e.cursors.open())))))
	r.out = bsoncore.BuildDocumentElement(r.out, "mem",
		bsoncore.AppendInt32Element(nil, "bits", 64),
		bsoncore.AppendInt64Element(nil, "heapBytes", int64(m.HeapAlloc)))
	r.out = bsoncore.BuildDocumentElement(r.out, "storageEngine",
		bsoncore.AppendStringElement(nil, "name", "bbolt"),
		bsoncore.AppendBooleanElement(nil, "supportsCommittedReads", true),
		bsoncore.AppendBooleanElement(nil, "persistent", true),
		bsoncore.AppendInt64Element(nil, "fileBytes", size),
		bsoncore.AppendInt32Element(nil, "openSnapshots", int32(reads)))
	return nil
}

func whatsMyURI(r *Request) error {
	r.out = bsoncore.AppendStringElement(r.out, "you", r.conn.Remote)
	return nil
}

func replSetGetStatus(r *Request) error {
	r.out = bsoncore.AppendStringElement(r.out, "set", r.e.cfg.ReplicaSet)
	r.out = bsoncore.AppendDateTimeElement(r.out, "date", time.Now().UnixMilli())
	r.out = bsoncore.AppendInt32Element(r.out, "myState", 1)
	r.out = bsoncore.BuildArrayElement(r.out, "members", value.Of(bsoncore.BuildDocument(nil,
		bsoncore.AppendInt32Element(nil, "_id", 0),
		bsoncore.AppendStringElement(nil, "name", r.e.cfg.Address),
		bsoncore.AppendDoubleElement(nil, "health", 1),
		bsoncore.AppendInt32Element(nil, "state", 1),
		bsoncore.AppendStringElement(nil, "stateStr", "PRIMARY"),
		bsoncore.AppendInt64Element(nil, "uptime", int64(time.Since(r.e.started).Seconds())),
		bsoncore.AppendBooleanElement(nil, "self", true))))
	return nil
}

func replSetGetConfig(r *Request) error {
	r.out = bsoncore.BuildDocumentElement(r.out, "config",
		bsoncore.AppendStringElement(nil, "_id", r.e.cfg.ReplicaSet),
		bsoncore.AppendInt32Element(nil, "version", 1),
		bsoncore.BuildArrayElement(nil, "members", value.Of(bsoncore.BuildDocument(nil,
			bsoncore.AppendInt32Element(nil, "_id", 0),
			bsoncore.AppendStringElement(nil, "host", r.e.cfg.Address)))))
	return nil
}

func freeMonitoring(r *Request) error {
	r.out = bsoncore.AppendStringElement(r.out, "state", "disabled")
	return nil
}

func getDefaultRWConcern(r *Request) error {
	r.out = bsoncore.AppendDateTimeElement(r.out, "localUpdateWallClockTime", time.Now().UnixMilli())
	return nil
}

func dbStats(r *Request) error {
	return r.view(func(tx *store.Tx) error {
		var collections, indexes int32
		var objects int64
		for _, c := range tx.Catalog().Collections(r.db) {
			collections++
			indexes += int32(len(c.Indexes))
			objects += tx.Count(c)
		}
		size, _ := r.e.store.Stats()
		r.out = bsoncore.AppendStringElement(r.out, "db", r.db)
		r.out = bsoncore.AppendInt32Element(r.out, "collections", collections)
		r.out = bsoncore.AppendInt32Element(r.out, "views", 0)
		r.out = bsoncore.AppendInt64Element(r.out, "objects", objects)
		r.out = bsoncore.AppendInt32Element(r.out, "indexes", indexes)
		r.out = bsoncore.AppendInt64Element(r.out, "fsUsedSize", size)
		return nil
	})
}

func collStats(r *Request) error {
	name, err := r.collection()
	if err != nil {
		return err
	}
	return r.view(func(tx *store.Tx) error {
		r.out = bsoncore.AppendStringElement(r.out, "ns", r.db+"."+name)
		c := tx.Catalog().Lookup(r.db, name)
		if c == nil {
			r.out = bsoncore.AppendInt32Element(r.out, "count", 0)
			return nil
		}
		r.out = bsoncore.AppendValueElement(r.out, "count", value.Int(tx.Count(c)))
		r.out = bsoncore.AppendInt32Element(r.out, "nindexes", int32(len(c.Indexes)))
		r.out = bsoncore.AppendBooleanElement(r.out, "capped", false)
		return nil
	})
}

func listCommands(r *Request) error {
	var names []string
	for n := range commands {
		names = append(names, n)
	}
	slices.SortFunc(names, strings.Compare)
	i, b := bsoncore.AppendDocumentElementStart(r.out, "commands")
	for _, n := range names {
		b = bsoncore.BuildDocumentElement(b, n, bsoncore.AppendBooleanElement(nil, "requiresAuth", !commands[n].open))
	}
	r.out, _ = bsoncore.AppendDocumentEnd(b, i)
	return nil
}
