package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/kiosk-shop/kiosk/bench/load"
)

// idle is what the box uses without requests.
type idle struct {
	Seconds float64            `json:"seconds"`
	Keys    int                `json:"redis_keys"`
	Orders  int64              `json:"orders"`
	Percent float64            `json:"percent_of_a_core"`
	By      map[string]float64 `json:"by_program"` // percent of a core
	Memory  map[string]float64 `json:"memory_mb"`  // resident, by program, just after the start
	Box     float64            `json:"box_mb"`
	Loaded  map[string]float64 `json:"loaded_mb"` // the same, after all other measurements
}

// idleKeys is how many keys Redis has meanwhile.
const idleKeys = 100_000

// settleDown is how long the box has to complete its work, and to release memory.
const settleDown = 5 * time.Second

// idleness measures the box without requests, with many keys in Redis.
func (s *shop) idleness(ctx context.Context, duration time.Duration) (out idle, err error) {
	if err := s.settled(ctx); err != nil {
		return out, err
	}
	loaded, _, err := s.usage()
	if err != nil {
		return out, err
	}
	out = idle{Keys: idleKeys, By: map[string]float64{}, Memory: s.fresh, Box: total(s.fresh), Loaded: loaded.memory()}
	if out.Orders, err = s.db.Collection("orders").EstimatedDocumentCount(ctx); err != nil {
		return out, err
	}
	if err := s.fillRedis(ctx, idleKeys); err != nil {
		return out, err
	}
	load.Pause(ctx, settleDown)
	before, _, err := s.usage()
	if err != nil {
		return out, err
	}
	began := time.Now()
	load.Pause(ctx, duration)
	took := time.Since(began)
	after, _, err := s.usage()
	if err != nil {
		return out, err
	}
	spent, err := after.since(before)
	if err != nil || ctx.Err() != nil {
		return out, errors.Join(err, ctx.Err())
	}
	out.Seconds = took.Seconds()
	for name, d := range spent {
		out.By[name] = 100 * d.Seconds() / took.Seconds()
	}
	out.Percent = total(out.By)
	return out, nil
}

// fillRedis sets keys that expire, as the shop's do.
func (s *shop) fillRedis(ctx context.Context, keys int) error {
	client := redis.NewClient(&redis.Options{Addr: s.redis, Password: os.Getenv("REDIS_PASSWORD"), ReadTimeout: time.Minute, WriteTimeout: time.Minute})
	defer client.Close()
	const batch = 1000
	value := strings.Repeat("x", 100)
	for i := 0; i < keys; i += batch {
		pipe := client.Pipeline()
		for n := range batch {
			pipe.Set(ctx, "bench:"+strconv.Itoa(i+n), value, 10*time.Minute)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("fill Redis: %w", err)
		}
	}
	return nil
}

// multiply copies documents of a collection, with other identifiers and times, until
// there are n. It copies with the driver, so that the documents have the form in which the
// shop has stored them. It fails if the collection is empty.
func multiply(ctx context.Context, c *mongo.Collection, n int64, change func(d bson.D, random *rand.Rand) bson.D) error {
	have, err := c.EstimatedDocumentCount(ctx)
	if err != nil {
		return err
	}
	cursor, err := c.Find(ctx, bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(smallShop))
	if err != nil {
		return err
	}
	var models []bson.D
	if err := cursor.All(ctx, &models); err != nil {
		return err
	}
	if len(models) == 0 {
		return fmt.Errorf("collection %s has no document to copy", c.Name())
	}
	const batch = 1000
	missing := int(max(n-have, 0))
	began := time.Now()
	return each((missing+batch-1)/batch, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 3))
		docs := make([]any, min(batch, missing-i*batch))
		for j := range docs {
			docs[j] = change(with(models[(i*batch+j)%len(models)], "_id", bson.NewObjectID()), random)
		}
		if i%100 == 99 {
			say("  %d %s after %.0f s", have+int64(i*batch), c.Name(), time.Since(began).Seconds())
		}
		_, err := c.InsertMany(ctx, docs, options.InsertMany().SetOrdered(false))
		return err
	})
}

// grow makes the small shop a big one, and restarts it, since its caches do not have the
// documents that were written directly to the database.
func (s *shop) grow(ctx context.Context, products, orders int64) error {
	if err := s.settled(ctx); err != nil {
		return err
	}
	err := multiply(ctx, s.db.Collection("products"), products, func(d bson.D, random *rand.Rand) bson.D {
		return with(d, "created_at", time.Now().Add(-time.Duration(random.IntN(365*24))*time.Hour))
	})
	if err != nil {
		return err
	}
	err = multiply(ctx, s.db.Collection("orders"), orders, func(d bson.D, random *rand.Rand) bson.D {
		owner := bson.NewObjectID() // most customers have one order, the benchmark's have thousands
		if random.IntN(10) == 0 {
			owner, _ = bson.ObjectIDFromHex(s.customer(random.IntN(customers)).id)
		}
		return with(with(d, "user_id", owner), "created_at", time.Now().Add(-time.Duration(random.IntN(365*24*3600))*time.Second))
	})
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	return errors.Join(s.start(ctx), s.logIn(ctx))
}

// starts returns how long each function takes from exec to its first answer, in
// milliseconds, as the median of a few starts.
func (s *shop) starts(ctx context.Context) (map[string]float64, error) {
	took := map[string]float64{}
	for _, p := range s.box.Processes() {
		path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.PID), "exe"))
		if err != nil || !strings.Contains(path, "/gateway/images/") {
			continue
		}
		environment, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "environ"))
		if err != nil {
			return nil, err
		}
		var times []float64
		for range 5 {
			d, err := start(ctx, path, strings.Split(strings.TrimRight(string(environment), "\x00"), "\x00"))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", programName(path), err)
			}
			times = append(times, milliseconds(d))
		}
		took[programName(path)] = load.Median(times)
	}
	return took, nil
}

// start runs a function's binary as the gateway does, and returns how long it took until
// it answered.
func start(ctx context.Context, path string, environment []string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return 0, err
	}
	_, port, _ := net.SplitHostPort(address)
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(environment, "port="+port)
	cmd.Stdout, cmd.Stderr = &output, &output
	request, err := load.NewRequest(http.MethodGet, "http://"+address+"/_/health", "", nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	end := func() string {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return output.String()
	}
	var conn load.Connection
	defer conn.Close()
	for {
		if status, _, _, err := conn.Do(ctx, request); err == nil && status == http.StatusOK {
			took := time.Since(began)
			end()
			return took, nil
		}
		if !load.Pause(ctx, time.Millisecond) {
			return 0, fmt.Errorf("the function does not answer: %s", end())
		}
	}
}
