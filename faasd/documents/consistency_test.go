package documents_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/faasd/documents"
)

// A test that kills the server runs it as a process of its own: this test
// binary, started again with DOCUMENTS_TEST_DIR set.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DOCUMENTS_TEST_DIR"); dir != "" {
		debug.SetGCPercent(400) // as the command does
		srv, err := documents.Open(documents.Options{Dir: dir, Addr: os.Getenv("DOCUMENTS_TEST_ADDR"), FailPoints: true})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println("ready", srv.Addr())
		io.Copy(io.Discard, os.Stdin) // until the test ends
		srv.Close()
		return
	}
	code := m.Run()
	t.end()
	os.Exit(code)
}

// process is a server that can be killed.
type process struct {
	t    testing.TB
	dir  string
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
}

func spawn(t testing.TB, dir string) *process {
	p := &process{t: t, dir: dir}
	p.start()
	t.Cleanup(p.kill)
	return p
}

func (p *process) start() {
	p.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(exe)
	p.cmd.Env = append(os.Environ(), "DOCUMENTS_TEST_DIR="+p.dir, "DOCUMENTS_TEST_ADDR="+p.addr)
	p.cmd.Stderr = os.Stderr
	p.in, _ = p.cmd.StdinPipe()
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		p.t.Fatalf("the server did not start: %s", line)
	}
	p.addr = addr
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.cmd = nil
	}
}

func (p *process) restart() {
	p.kill()
	p.start()
}

func (p *process) uri() string { return "mongodb://" + p.addr + "/?replicaSet=rs0" }

// TestBank moves money between the accounts of two collections while the
// server is killed repeatedly. Every transfer also writes a receipt. In every
// snapshot the sum of the balances must be the same, every acknowledged transfer must have
// its receipt, exactly once, and the balances must be what the receipts say.
func TestBank(t *testing.T) {
	const (
		accounts = 10
		start    = 100
		clients  = 8
		kills    = 3
	)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	srv := spawn(t, t.TempDir())
	client := connect(t, srv.uri())
	db := client.Database("bank")
	colls := []*mongo.Collection{db.Collection("left"), db.Collection("right")}
	for _, c := range colls {
		for i := range accounts {
			must[*mongo.InsertOneResult](t)(c.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "n", Value: start}}))
		}
	}
	receipts := db.Collection("receipts")
	must[string](t)(receipts.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "client", Value: 1}, {Key: "seq", Value: 1}}, Options: options.Index().SetUnique(true)}))

	type id struct{ client, seq int }
	var acked sync.Map
	var committed, audits atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 7))
			for seq := 0; ; seq++ {
				select {
				case <-stop:
					return
				default:
				}
				if rng.IntN(4) == 0 {
					if total, err := audit(ctx, client, colls); err == nil {
						audits.Add(1)
						if total != 2*accounts*start {
							t.Errorf("a snapshot holds %d", total)
						}
					}
					continue
				}
				from, to := colls[rng.IntN(2)], colls[rng.IntN(2)]
				a, b, amount := rng.IntN(accounts), rng.IntN(accounts), 1+rng.IntN(30)
				if from == to && a == b {
					continue
				}
				err := transfer(ctx, client, from, to, receipts, n, seq, a, b, amount)
				switch {
				case err == nil:
					acked.Store(id{n, seq}, amount)
					committed.Add(1)
				case errors.Is(err, errPoor):
				}
			}
		})
	}
	for range kills {
		waitFor(t, func() bool { return ctx.Err() != nil || committed.Load() > 0 })
		before := committed.Load()
		waitFor(t, func() bool { return ctx.Err() != nil || committed.Load() > before+60 })
		srv.restart()
	}
	before := committed.Load()
	waitFor(t, func() bool { return ctx.Err() != nil || committed.Load() > before+60 })
	close(stop)
	wg.Wait()

	if total, err := audit(ctx, client, colls); err != nil || total != 2*accounts*start {
		t.Errorf("in the end there are %d, %v", total, err)
	}
	balance := map[string]int{}
	seen := map[id]bool{}
	cur := must[*mongo.Cursor](t)(receipts.Find(ctx, bson.D{}))
	for cur.Next(ctx) {
		var r struct {
			Client, Seq, Amount int
			From, To            string
		}
		if err := cur.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if seen[id{r.Client, r.Seq}] {
			t.Errorf("transfer %d of client %d happened twice", r.Seq, r.Client)
		}
		seen[id{r.Client, r.Seq}] = true
		balance[r.From] -= r.Amount
		balance[r.To] += r.Amount
	}
	acked.Range(func(k, _ any) bool {
		if !seen[k.(id)] {
			t.Errorf("acknowledged transfer %v is lost", k)
		}
		return true
	})
	for _, c := range colls {
		for i := range accounts {
			var got struct{ N int }
			if err := c.FindOne(ctx, bson.D{{Key: "_id", Value: i}}).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if want := start + balance[name(c, i)]; got.N != want {
				t.Errorf("%s has %d, its receipts say %d", name(c, i), got.N, want)
			}
		}
	}
	t.Logf("%d transfers acknowledged, %d receipts, %d audits, %d kills", committed.Load(), len(seen), audits.Load(), kills)
}

func name(c *mongo.Collection, i int) string { return fmt.Sprintf("%s/%d", c.Name(), i) }

var errPoor = errors.New("not enough")

func transfer(ctx context.Context, client *mongo.Client, from, to, receipts *mongo.Collection, n, seq, a, b, amount int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := client.StartSession()
	if err != nil {
		return err
	}
	defer s.EndSession(context.WithoutCancel(ctx))
	_, err = s.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		res, err := from.UpdateOne(ctx, bson.D{{Key: "_id", Value: a}, {Key: "n", Value: bson.D{{Key: "$gte", Value: amount}}}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: -amount}}}})
		if err != nil {
			return nil, err
		}
		if res.MatchedCount == 0 {
			return nil, errPoor
		}
		if _, err := to.UpdateOne(ctx, bson.D{{Key: "_id", Value: b}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: amount}}}}); err != nil {
			return nil, err
		}
		_, err = receipts.InsertOne(ctx, bson.D{{Key: "client", Value: n}, {Key: "seq", Value: seq}, {Key: "amount", Value: amount}, {Key: "from", Value: name(from, a)}, {Key: "to", Value: name(to, b)}})
		return nil, err
	}, txnOptions())
	return err
}

// audit adds up all accounts in one snapshot.
func audit(ctx context.Context, client *mongo.Client, colls []*mongo.Collection) (total int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := client.StartSession()
	if err != nil {
		return 0, err
	}
	defer s.EndSession(context.WithoutCancel(ctx))
	_, err = s.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		total = 0
		for _, c := range colls {
			cur, err := c.Find(ctx, bson.D{}, options.Find().SetBatchSize(3))
			if err != nil {
				return nil, err
			}
			for cur.Next(ctx) {
				total += int(cur.Current.Lookup("n").Int32())
			}
			if err := cur.Err(); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}, txnOptions())
	return total, err
}

func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("timed out")
		}
	}
}

// TestWriteSkew documents what snapshot isolation, MongoDB's and this
// server's, allows, and how the usual remedy, writing what was read, works.
func TestWriteSkew(t *testing.T) {
	ctx := testContext(t)
	client := connect(t, documents.Start(t, documents.Options{NoSync: true}).URI())
	doctors := client.Database("ward").Collection("doctors")
	for _, guard := range []bool{false, true} {
		doctors.Drop(ctx)
		for i := range 2 {
			must[*mongo.InsertOneResult](t)(doctors.InsertOne(ctx, bson.D{{Key: "_id", Value: i}, {Key: "on", Value: true}}))
		}
		var errs []error
		var sessions []*mongo.Session
		for i := range 2 {
			s := must[*mongo.Session](t)(client.StartSession())
			defer s.EndSession(ctx)
			if err := s.StartTransaction(txnOptions()); err != nil {
				t.Fatal(err)
			}
			sc := mongo.NewSessionContext(ctx, s)
			n := must[int64](t)(doctors.CountDocuments(sc, bson.D{{Key: "on", Value: true}}))
			if n != 2 {
				t.Fatalf("doctor %d sees %d on duty", i, n)
			}
			sessions = append(sessions, s)
		}
		for i, s := range sessions {
			sc := mongo.NewSessionContext(ctx, s)
			if guard {
				_, err := doctors.UpdateMany(sc, bson.D{}, bson.D{{Key: "$inc", Value: bson.D{{Key: "seen", Value: 1}}}})
				errs = append(errs, err)
			}
			_, err := doctors.UpdateByID(sc, i, bson.D{{Key: "$set", Value: bson.D{{Key: "on", Value: false}}}})
			errs = append(errs, err, s.CommitTransaction(ctx))
		}
		left := must[int64](t)(doctors.CountDocuments(ctx, bson.D{{Key: "on", Value: true}}))
		want := int64(0)
		if guard {
			want = 1
		}
		if left != want {
			t.Errorf("guarded %v: %d left on duty, want %d (%v)", guard, left, want, errs)
		}
	}
}

// TestAcknowledgedWritesSurvive kills the server under a load of plain writes.
func TestAcknowledgedWritesSurvive(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	srv := spawn(t, t.TempDir())
	client := connect(t, srv.uri())
	c := client.Database("d").Collection("c")
	must[string](t)(c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "k", Value: 1}}, Options: options.Index().SetUnique(true)}))
	var mu sync.Mutex
	acked := map[int]bool{}
	var counter int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for n := range 8 {
		wg.Go(func() {
			for i := n; ; i += 8 {
				select {
				case <-stop:
					return
				default:
				}
				wctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := c.InsertOne(wctx, bson.D{{Key: "_id", Value: i}, {Key: "k", Value: i * 3}})
				if err == nil {
					_, err = c.UpdateOne(wctx, bson.D{{Key: "_id", Value: "counter"}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}}, options.UpdateOne().SetUpsert(true))
				}
				cancel()
				if mongo.IsDuplicateKeyError(err) && !strings.Contains(err.Error(), "counter") {
					t.Errorf("a retried insert was made twice: %v", err)
				}
				mu.Lock()
				if err == nil {
					acked[i] = true
					counter++
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	for range 2 {
		before := count()
		waitFor(t, func() bool { return count() > before+200 })
		srv.restart()
	}
	before := count()
	waitFor(t, func() bool { return count() > before+50 })
	close(stop)
	wg.Wait()
	for i := range acked {
		if err := c.FindOne(ctx, bson.D{{Key: "k", Value: i * 3}, {Key: "_id", Value: i}}).Err(); err != nil {
			t.Errorf("acknowledged %d: %v", i, err)
		}
	}
	var got struct{ N int64 }
	if err := c.FindOne(ctx, bson.D{{Key: "_id", Value: "counter"}}).Decode(&got); err != nil || got.N < counter || got.N > counter+8*3 {
		t.Errorf("counter is %d, %d increments were acknowledged (%v)", got.N, counter, err)
	}
}
