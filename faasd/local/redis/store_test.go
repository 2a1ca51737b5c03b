package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// check fails the test where the store's parts do not agree.
func (s *store) check(t *testing.T) {
	t.Helper()
	used, expiring := 0, 0
	for db := range s.dbs {
		d := &s.dbs[db]
		if len(d.byKey) != len(d.list) {
			t.Fatalf("database %d has %d keys and a list of %d", db, len(d.byKey), len(d.list))
		}
		expires := 0
		for i, e := range d.list {
			if d.byKey[e.key] != e || e.listIndex != i || e.db != db {
				t.Fatalf("%q is not where it says", e.key)
			}
			if e.deadline != 0 {
				expires++
				if e.heapIndex >= len(s.queue) || s.queue[e.heapIndex] != e {
					t.Fatalf("%q is not in the queue where it says", e.key)
				}
			}
			used += e.size()
		}
		if d.expires != expires {
			t.Fatalf("database %d counts %d that expire, and has %d", db, d.expires, expires)
		}
		expiring += expires
	}
	if used != s.used || expiring != len(s.queue) {
		t.Fatalf("%d bytes are used and %d counted; %d expire and %d are in the queue", used, s.used, expiring, len(s.queue))
	}
	for i := range s.queue {
		if i > 0 && s.queue.Less(i, (i-1)/2) {
			t.Fatal("the queue is not in order")
		}
	}
}

// TestStore does at random what commands do, beside a plain map.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type value struct {
			text string
			ends time.Time // zero: never
		}
		random := rand.New(rand.NewPCG(1, 2))
		s, want := newStore(1<<30), map[string]value{}
		for range 20_000 {
			db, key := random.IntN(3), fmt.Sprint(random.IntN(50))
			name := fmt.Sprint(db, ":", key)
			if v, ok := want[name]; ok && !v.ends.IsZero() && !v.ends.After(time.Now()) {
				delete(want, name)
			}
			v, there := want[name]
			e := s.get(db, []byte(key))
			if (e != nil) != there || there && e.value != v.text {
				t.Fatalf("%s is %+v, want %+v, %v", name, e, v, there)
			}
			lasts := time.Duration(1+random.IntN(100)) * time.Second
			switch random.IntN(8) {
			case 0, 1:
				text := strings.Repeat("x", random.IntN(30))
				if err := s.put(db, []byte(key), []byte(text), s.now()+lasts); err != nil {
					t.Fatal(err)
				}
				want[name] = value{text, time.Now().Add(lasts)}
			case 2:
				if err := s.put(db, []byte(key), []byte(name), 0); err != nil {
					t.Fatal(err)
				}
				want[name] = value{name, time.Time{}}
			case 3:
				if e != nil {
					s.remove(e)
					delete(want, name)
				}
			case 4:
				if e != nil {
					s.setDeadline(e, s.now()+lasts)
					want[name] = value{v.text, time.Now().Add(lasts)}
				}
			case 5:
				if e != nil {
					s.setDeadline(e, 0)
					want[name] = value{v.text, time.Time{}}
				}
			case 6:
				s.sweep(1 + random.IntN(3))
			case 7:
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			}
			if random.IntN(3000) == 0 {
				s.flush(db)
				for name := range want {
					if strings.HasPrefix(name, fmt.Sprint(db, ":")) {
						delete(want, name)
					}
				}
			}
			if random.IntN(20) == 0 {
				s.check(t)
			}
		}
		if s.counts.expired < 100 {
			t.Errorf("only %d keys expired on the way", s.counts.expired)
		}
	})
}

// TestExpiry: a key is there until its time and not a moment longer, whoever
// looks; and what it takes is given back within a second, though nobody looks.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer("", maxMemory)
		ask := func(args ...string) string {
			words := make([][]byte, len(args))
			for i := range args {
				words[i] = []byte(args[i])
			}
			var reply replies
			s.store.Lock()
			defer s.store.Unlock()
			lookUp(words[0]).keys(call{s.store, s.scripts, 0, &reply}, words)
			return string(reply.out)
		}
		for _, look := range [][]string{
			{"get", "k"}, {"exists", "k"}, {"ttl", "k"}, {"keys", "*"}, {"scan", "0"}, {"dbsize"}, {"strlen", "k"}, {"type", "k"}, {"mget", "k"},
			{"persist", "k"}, {"expire", "k", "9"}, {"del", "k"}, {"getdel", "k"}, {"getex", "k", "persist"}, {"set", "k", "v", "xx"}, {"eval", "return redis.call('get', 'k')", "0"},
		} {
			none := ask(look...)
			ask("set", "k", "1", "px", "1500")
			time.Sleep(1499 * time.Millisecond)
			if ask("exists", "k") != ":1\r\n" {
				t.Error("it expired too early")
			}
			time.Sleep(time.Millisecond)
			if got := ask(look...); got != none {
				t.Errorf("%s sees a key that has expired: %q", look, got)
			}
		}

		ctx, cancel := context.WithCancel(t.Context())
		go s.sweep(ctx)
		ask("flushall")
		for i := range 2500 {
			ask("set", fmt.Sprint("k", i), "v", "ex", "10")
		}
		ask("set", "stays", "v")
		ask("set", "later", "v", "ex", "12")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		s.store.Lock()
		defer s.store.Unlock()
		if n := len(s.store.dbs[0].list); n != 2 {
			t.Errorf("a second after their time %d keys are kept, want 2", n)
		}
		cancel()
	})
}

// TestEviction: at the bound the keys that would expire soonest go; what does
// not expire stays, and then writes are refused.
func TestEviction(t *testing.T) {
	s := newStore(100 * (overhead + 10))
	put := func(i int, lasts time.Duration) error {
		deadline := time.Duration(0)
		if lasts != 0 {
			deadline = s.now() + lasts
		}
		return s.put(0, fmt.Appendf(nil, "%05d", i), []byte("value"), deadline)
	}
	there := func(i int) bool { return s.get(0, fmt.Appendf(nil, "%05d", i)) != nil }
	for i := range 100 {
		if err := put(i, time.Duration(1000-i)*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 { // ten that stay for ten that expire
		if err := put(1000+i, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if there(i) != (i < 90) {
			t.Errorf("key %d: %v", i, there(i))
		}
	}
	if s.counts.evicted != 10 {
		t.Errorf("%d were evicted", s.counts.evicted)
	}
	// The one that is written is not the one that goes.
	if err := s.put(0, []byte("00089"), []byte(strings.Repeat("v", 30)), s.now()+time.Minute); err != nil || !there(89) || there(88) {
		t.Errorf("%v, %v, %v", err, there(89), there(88))
	}
	s.check(t)
	for i := range 100 {
		if err := put(2000+i, 0); (err != nil) != (i >= 90) {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	if err := put(2000, 0); err != nil {
		t.Errorf("a write that takes no more room: %v", err)
	}
	if err := s.put(1, []byte("k"), make([]byte, s.maxMemory), 0); err == nil {
		t.Error("a value larger than all memory was taken")
	}
	s.check(t)
}

// TestMemory: what the bound counts is what the process takes, also after each
// key was replaced many times over.
func TestMemory(t *testing.T) {
	heap := func() int { runtime.GC(); return heapInUse() }
	for _, size := range []int{0, 40, 400, 40_000} {
		const bound = 4 << 20
		before := heap()
		s := newStore(bound)
		value, written := make([]byte, size), 0
		for i := 0; written < 5*bound; i++ {
			key := fmt.Appendf(nil, "cache:product:%024d", i)
			if err := s.put(i%2, key, value, s.now()+time.Hour+time.Duration(i)); err != nil {
				t.Fatal(err)
			}
			written += len(key) + size + overhead
		}
		took := heap() - before
		if s.used > bound || s.used < bound*9/10 {
			t.Errorf("values of %d bytes: %d bytes are used of %d", size, s.used, bound)
		}
		if took > bound*3/2 {
			t.Errorf("values of %d bytes: the process takes %d bytes for %d", size, took, bound)
		}
		t.Logf("values of %d bytes: %d keys, %.2f of the bound", size, len(s.queue), float64(took)/bound)
		runtime.KeepAlive(s)
	}
}

// TestScan: what is there from the first SCAN to the last is found, whatever
// comes and goes meanwhile.
func TestScan(t *testing.T) {
	if next := newStore(maxMemory).scan(0, 1<<40, 10, func(*entry) { t.Error("there is nothing") }); next != 0 {
		t.Errorf("the cursor after the last is %d", next)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		s := newStore(maxMemory)
		for i := range random.IntN(100) {
			s.put(0, fmt.Appendf(nil, "stays-%d", i), nil, 0)
			s.put(0, fmt.Appendf(nil, "goes-%d", i), nil, 0)
		}
		found, rounds := map[string]bool{}, 0
		for cursor := -1; cursor != 0; rounds++ {
			cursor = s.scan(0, max(cursor, 0), 1+random.IntN(10), func(e *entry) { found[e.key] = true })
			for range random.IntN(20) {
				if e := s.get(0, fmt.Appendf(nil, "goes-%d", random.IntN(100))); e != nil {
					s.remove(e)
				}
				if random.IntN(3) == 0 {
					s.put(0, fmt.Appendf(nil, "comes-%d", random.IntN(1000)), nil, 0)
				}
			}
			if rounds > 1000 {
				t.Fatal("it does not end")
			}
		}
		for key := range s.dbs[0].byKey {
			if strings.HasPrefix(key, "stays") && !found[key] {
				t.Fatalf("%s was not found", key)
			}
		}
	}
}

// BenchmarkSweep is the work at rest, which must not grow with the keys.
func BenchmarkSweep(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStore(maxMemory)
			for i := range n {
				s.put(0, fmt.Append(nil, i), nil, s.now()+time.Hour)
			}
			for b.Loop() {
				s.sweep(sweepBatch)
			}
		})
	}
}

func BenchmarkScript(b *testing.B) {
	s := newServer("", maxMemory)
	var reply replies
	sha, _, err := s.scripts.load(`if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 0`)
	if err != nil {
		b.Fatal(err)
	}
	value := []byte(strings.Repeat("x", 350))
	args := [][]byte{[]byte("evalsha"), []byte(sha), []byte("1"), []byte("k"), value, value, []byte("300000")}
	if err := s.store.put(0, []byte("k"), value, 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		reply.out = reply.out[:0]
		evalSHA(call{s.store, s.scripts, 0, &reply}, args)
	}
}
