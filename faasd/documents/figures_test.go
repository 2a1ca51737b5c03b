package documents_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/wiremessage"
)

var figures = flag.Int("figures", 0, "measure with this many products (the README has 1000000)")

// TestFigures measures what the README says, in one run:
//
//	go test -run Figures -figures 1000000 -timeout 30m .
//
// The Redis beside it is the one at REDIS_ADDR, or redis-server if installed.
func TestFigures(t *testing.T) {
	if *figures == 0 {
		t.Skip("only with -figures")
	}
	ctx := context.Background()
	srv := spawn(t, t.TempDir())
	client := connect(t, srv.uri())
	products := client.Database("shop").Collection("products")
	must[[]string](t)(products.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: bson.D{{Key: "sku", Value: 1}}, Options: options.Index().SetUnique(true)},
		{Keys: bson.D{{Key: "category", Value: 1}, {Key: "price", Value: -1}}},
	}))
	n := *figures
	ids := make([]bson.ObjectID, n)
	skus := rand.Perm(n)
	began := time.Now()
	for at := 0; at < n; at += 5000 {
		var docs []any
		for i := at; i < min(n, at+5000); i++ {
			ids[i] = bson.NewObjectID()
			docs = append(docs, product(ids[i], skus[i]))
		}
		if _, err := products.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false)); err != nil {
			t.Fatal(err)
		}
	}
	report := func(what string, args ...any) { fmt.Printf("| "+what+" |\n", args...) }
	took := time.Since(began)
	report("load %d products with two indexes | %.0f s, %.0f/s", n, took.Seconds(), float64(n)/took.Seconds())

	doc, _ := bson.Marshal(product(ids[0], skus[0]))
	const reads = 20000
	byID := latencies(reads, func() {
		if err := products.FindOne(ctx, bson.D{{Key: "_id", Value: ids[rand.IntN(n)]}}).Err(); err != nil {
			t.Fatal(err)
		}
	})
	bySKU := latencies(reads, func() {
		if err := products.FindOne(ctx, bson.D{{Key: "sku", Value: fmt.Sprintf("SKU-%08d", rand.IntN(n))}}).Err(); err != nil {
			t.Fatal(err)
		}
	})
	report("find by _id, through the driver | p50 %s, p99 %s", byID[0], byID[1])
	report("find by sku, indexed, through the driver | p50 %s, p99 %s", bySKU[0], bySKU[1])
	bare := exchange(t, srv.addr)
	bareSKU := latencies(reads, func() {
		r := bare(find(t, d("sku", fmt.Sprintf("SKU-%08d", rand.IntN(n)))))
		if !bytes.Contains(r, []byte("description")) {
			t.Fatalf("found %q", r)
		}
	})
	bareID := latencies(reads, func() { bare(find(t, d("_id", ids[rand.IntN(n)]))) })
	report("find by _id, over a bare socket | p50 %s, p99 %s", bareID[0], bareID[1])
	report("find by sku, indexed, over a bare socket | p50 %s, p99 %s", bareSKU[0], bareSKU[1])
	if addr, ok := redisServer(t); ok {
		r := redis.NewClient(&redis.Options{Addr: addr})
		defer r.Close()
		for i := range 1000 {
			if err := r.Set(ctx, fmt.Sprintf("kiosk-figures:%d", i), doc, time.Minute).Err(); err != nil {
				t.Fatal(err)
			}
		}
		get := latencies(reads, func() {
			if err := r.Get(ctx, fmt.Sprintf("kiosk-figures:%d", rand.IntN(1000))).Err(); err != nil {
				t.Fatal(err)
			}
		})
		report("Redis GET of the same %d bytes, through go-redis | p50 %s, p99 %s; the indexed find's p50 is %.1f× that", len(doc), get[0], get[1], float64(bySKU[0])/float64(get[0]))
		bare := exchange(t, addr)
		bareGet := latencies(reads, func() {
			key := fmt.Sprintf("kiosk-figures:%d", rand.IntN(1000))
			if r := bare(fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)); !bytes.Contains(r, []byte("description")) {
				t.Fatalf("got %q", r)
			}
		})
		report("Redis GET, over a bare socket | p50 %s, p99 %s; the indexed find's p50 is %.1f× that", bareGet[0], bareGet[1], float64(bareSKU[0])/float64(bareGet[0]))
	}

	inserts := client.Database("shop").Collection("inserts")
	insert := func(int) {
		if _, err := inserts.InsertOne(ctx, product(bson.NewObjectID(), rand.Int())); err != nil {
			t.Error(err)
		}
	}
	one := throughput(1, 5*time.Second, insert)
	many := throughput(16, 5*time.Second, insert)
	report("durable inserts through the driver, 1 client | %.0f/s", one)
	report("durable inserts through the driver, 16 clients | %.0f/s, %.1f× one client's", many, many/one)
	var sockets [16]func(request []byte) []byte
	for i := range sockets {
		sockets[i] = exchange(t, srv.addr)
	}
	bareInsert := func(c int) {
		doc := product(bson.NewObjectID(), rand.Int())
		if r := sockets[c](command(t, d("insert", "inserts", "documents", bson.A{doc}, "$db", "shop"))); !bytes.Contains(r, []byte("\x10n\x00\x01\x00\x00\x00")) {
			t.Errorf("inserted: %q", r)
		}
	}
	one = throughput(1, 5*time.Second, bareInsert)
	many = throughput(16, 5*time.Second, bareInsert)
	report("durable inserts over a bare socket, 1 client | %.0f/s", one)
	report("durable inserts over bare sockets, 16 clients | %.0f/s, %.1f× one client's", many, many/one)

	accounts := client.Database("shop").Collection("accounts")
	for i := range 33 {
		must[*mongo.InsertOneResult](t)(accounts.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "n", Value: 0}}))
	}
	move := func(a, b int) {
		s, err := client.StartSession()
		if err != nil {
			t.Error(err)
			return
		}
		defer s.EndSession(ctx)
		_, err = s.WithTransaction(ctx, func(ctx context.Context) (any, error) {
			for _, id := range []int{a, b} {
				if _, err := accounts.UpdateByID(ctx, id, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}, txnOptions())
		if err != nil {
			t.Error(err)
		}
	}
	report("two-document transactions, 16 clients without conflicts | %.0f/s", throughput(16, 5*time.Second, func(c int) { move(2*c, 2*c+1) }))
	report("two-document transactions, 16 clients on one hot document | %.0f/s", throughput(16, 5*time.Second, func(c int) { move(32, 2*c) }))

	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", srv.cmd.Process.Pid))
	memory := func(field string) string {
		m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
		if m == nil {
			return "?"
		}
		var kb int
		fmt.Sscan(string(m[1]), &kb)
		return fmt.Sprintf("%d MB", kb>>10)
	}
	info, _ := os.Stat(srv.dir + "/documents.db")
	report("memory, all of it above | %s, and %s of the file's pages that the system may take back; file %d MB", memory("RssAnon"), memory("RssFile"), info.Size()>>20)
	srv.kill()
	began = time.Now()
	srv.start()
	ready := time.Since(began)
	if err := products.FindOne(ctx, bson.D{{Key: "sku", Value: "SKU-00000001"}}).Err(); err != nil {
		t.Fatal(err)
	}
	report("start-up after kill -9 | %s, first find answered after %s", ready.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// exchange returns a function that sends a request over a connection and
// returns the answer, which is small enough to come in one piece.
func exchange(t *testing.T, addr string) func(request []byte) []byte {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	buf := make([]byte, 64<<10)
	return func(request []byte) []byte {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
}

func find(t *testing.T, filter bson.D) []byte {
	return command(t, d("find", "products", "filter", filter, "limit", int64(1), "singleBatch", true, "$db", "shop"))
}

// command is the message that a driver would send.
func command(t *testing.T, cmd bson.D) []byte {
	body, err := bson.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return message(wiremessage.OpMsg, append([]byte{0, 0, 0, 0, 0}, body...))
}

func product(id bson.ObjectID, sku int) bson.D {
	return bson.D{{Key: "_id", Value: id}, {Key: "sku", Value: fmt.Sprintf("SKU-%08d", sku)}, {Key: "name", Value: "A product of the usual kind"},
		{Key: "description", Value: strings.Repeat("words ", 20)}, {Key: "category", Value: fmt.Sprintf("category-%d", sku%100)},
		{Key: "stock", Value: sku % 50}, {Key: "price", Value: int64(sku % 10000)}, {Key: "currency", Value: "USD"},
		{Key: "created_at", Value: time.Unix(1.7e9, 0)}, {Key: "updated_at", Value: time.Unix(1.7e9, 0)}}
}

// latencies returns the median and the 99th percentile.
func latencies(n int, f func()) [2]time.Duration {
	for range n / 10 {
		f() // warm up
	}
	all := make([]time.Duration, n)
	for i := range all {
		began := time.Now()
		f()
		all[i] = time.Since(began)
	}
	slices.Sort(all)
	return [2]time.Duration{all[n/2].Round(time.Microsecond), all[n*99/100].Round(time.Microsecond)}
}

func throughput(clients int, d time.Duration, f func(client int)) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for c := range clients {
		wg.Go(func() {
			for time.Since(began) < d {
				f(c)
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

func redisServer(t *testing.T) (addr string, ok bool) {
	if addr := os.Getenv("REDIS_ADDR"); addr != "" {
		return addr, true
	}
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Log("no REDIS_ADDR and no redis-server: not compared")
		return "", false
	}
	port := fmt.Sprint(20000 + rand.IntN(20000))
	cmd := exec.Command(bin, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	r := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port})
	defer r.Close()
	waitFor(t, func() bool { return r.Ping(context.Background()).Err() == nil })
	return "127.0.0.1:" + port, true
}
