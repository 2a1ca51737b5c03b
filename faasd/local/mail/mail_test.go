package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kiosk-shop/kiosk/faasd/local/internal/boxtest"
)

// sink is a mail server that runs.
type sink struct {
	t          *testing.T
	dir        string
	smtp, http string
	stop       func()
}

func start(t *testing.T, dir string) *sink {
	t.Helper()
	s := &sink{t: t, dir: dir,
		smtp: fmt.Sprintf("127.0.0.1:%d", boxtest.FreePort(t)), http: fmt.Sprintf("127.0.0.1:%d", boxtest.FreePort(t))}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, s.smtp, s.http, dir) }()
	s.stop = func() {
		if ctx.Err() != nil {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(s.stop)
	boxtest.Eventually(t, "the sink answers", 2*time.Minute, func() bool {
		res, err := http.Get("http://" + s.http + "/healthz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return s
}

func (s *sink) send(id, subject string, to ...string) error {
	return s.raw(to, "From: Kiosk <shop@kiosk.local>\r\nTo: "+to[0]+"\r\nSubject: "+subject+"\r\nMessage-ID: <"+id+">\r\nDate: Mon, 02 Jan 2006 15:04:05 +0100\r\n\r\nbody\r\n")
}

func (s *sink) raw(to []string, text string) error {
	return smtp.SendMail(s.smtp, nil, "bounce@kiosk.local", to, []byte(text))
}

func (s *sink) messages(query string) (messages []Message) {
	s.t.Helper()
	res, err := http.Get("http://" + s.http + "/api/messages" + query)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&messages); err != nil {
		s.t.Fatal(err)
	}
	return messages
}

func (s *sink) do(method, path, body string) int {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func subjects(messages []Message) (list []string) {
	for _, m := range messages {
		list = append(list, m.Subject)
	}
	return list
}

func TestMultipart(t *testing.T) {
	s := start(t, t.TempDir())
	text := strings.ReplaceAll(`From: =?utf-8?q?Caf=C3=A9?= <shop@kiosk.local>
To: ann@example.com
Subject: =?utf-8?b?R3LDvMOfZQ==?=
Message-ID: <m1@kiosk.local>
Date: Mon, 02 Jan 2006 15:04:05 +0100
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Thank you =E2=9C=93
--inner
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

PGI+VGhhbmsgeW91PC9iPg==
--inner--

--outer
Content-Type: text/plain
Content-Disposition: attachment; filename=invoice.txt

not shown
--outer--
`, "\n", "\r\n")
	if err := s.raw([]string{"ann@example.com", "bob@example.com"}, text); err != nil {
		t.Fatal(err)
	}
	got := s.messages("")
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	m := got[0]
	if m.ID == "" || m.ReceivedAt.IsZero() {
		t.Errorf("id %q, received %s", m.ID, m.ReceivedAt)
	}
	m.ID, m.ReceivedAt = "", time.Time{}
	m.Text = strings.TrimSpace(m.Text)
	want := Message{From: "shop@kiosk.local", To: []string{"ann@example.com", "bob@example.com"}, Subject: "Grüße",
		HTML: "<b>Thank you</b>", Text: "Thank you ✓", Date: time.Date(2006, 1, 2, 14, 4, 5, 0, time.UTC),
		MessageID: "m1@kiosk.local", Deliveries: 1}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v\nwant %+v", m, want)
	}
	if err := s.raw([]string{"ann@example.com"}, "no header at all\r\n"); err != nil {
		t.Fatal(err)
	}
	if m := s.messages("?limit=1")[0]; !strings.Contains(m.Text, "no header at all") || m.From != "bounce@kiosk.local" || m.Date.IsZero() {
		t.Errorf("what is no message is shown as %+v", m)
	}
}

func TestDeliveries(t *testing.T) {
	s := start(t, t.TempDir())
	for _, send := range []struct {
		id, subject string
		to          []string
	}{
		{"1@x", "one", []string{"ann@example.com"}},
		{"2@x", "two", []string{"ann@example.com"}},
		{"1@x", "one", []string{"ann@example.com"}}, // again
		{"1@x", "one, for bob", []string{"ann@example.com", "bob@example.com"}},
	} {
		if err := s.send(send.id, send.subject, send.to...); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		got := s.messages("")
		if want := []string{"one, for bob", "two", "one"}; !reflect.DeepEqual(subjects(got), want) {
			t.Fatalf("messages %v", subjects(got))
		}
		if got[0].Deliveries != 1 || !reflect.DeepEqual(got[0].To, []string{"bob@example.com"}) || got[1].Deliveries != 1 || got[2].Deliveries != 3 {
			t.Errorf("deliveries %+v", got)
		}
	}
	check()
	if got := subjects(s.messages("?to=BOB@example.com")); !reflect.DeepEqual(got, []string{"one, for bob"}) {
		t.Errorf("to bob: %v", got)
	}
	if got := subjects(s.messages("?limit=2")); len(got) != 2 {
		t.Errorf("limit: %v", got)
	}
	if status := s.do("GET", "/api/messages?limit=0", ""); status != 400 {
		t.Errorf("limit=0: %d", status)
	}

	// Another sink on the same folder goes on where this one ended.
	s.stop()
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v, want one", files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	half := content[:len(content)-len(content)/5] // as a crash leaves it: what comes last counts the third delivery of one
	if err := os.WriteFile(files[0], half, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := openMailbox(s.dir, maxKept, maxKeptBytes); err != nil || len(b.messages) != 2 {
		t.Errorf("half a line at the end: %v, %v, want the two messages before it", b.messages, err)
	}
	if err := os.WriteFile(files[0], append([]byte("x"), content...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openMailbox(s.dir, maxKept, maxKeptBytes); err == nil || !strings.Contains(err.Error(), files[0]) {
		t.Errorf("what is no message: %v, want an error that names %s", err, files[0])
	}
	if err := os.WriteFile(files[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, s.dir)
	check()
	if err := s.send("2@x", "two", "ann@example.com"); err != nil {
		t.Fatal(err)
	}
	if got := s.messages(""); len(got) != 3 || got[1].Deliveries != 2 {
		t.Errorf("after the restart: %+v", got)
	}
	if status := s.do("DELETE", "/api/messages", ""); status != 204 {
		t.Errorf("DELETE: %d", status)
	}
	if files, err := os.ReadDir(s.dir); len(s.messages("")) != 0 || err != nil || len(files) != 0 {
		t.Errorf("left after DELETE: %v, %v, %v", s.messages(""), files, err)
	}
	if err := s.send("1@x", "new", "ann@example.com"); err != nil || len(s.messages("")) != 1 {
		t.Errorf("the sink after it was emptied: %v, %v", err, s.messages(""))
	}
}

func TestFaults(t *testing.T) {
	s := start(t, t.TempDir())
	for _, c := range []struct {
		mode string
		says string // by the client's error
		kept bool
	}{
		{"tempfail", "451", false},
		{"permfail", "554", false},
		{"drop_after_data", "", true},
	} {
		if status := s.do("PUT", "/api/faults", fmt.Sprintf(`{"mode":%q,"count":2}`, c.mode)); status != 200 {
			t.Fatalf("%s: %d", c.mode, status)
		}
		for range 2 {
			if err := s.send(c.mode, c.mode, "ann@example.com"); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.mode, err)
			}
		}
		if kept := len(s.messages("")) == 1; kept != c.kept {
			t.Errorf("%s: kept %v", c.mode, kept)
		}
		if err := s.send(c.mode, c.mode, "ann@example.com"); err != nil {
			t.Errorf("after %s: %v", c.mode, err)
		}
		s.do("DELETE", "/api/messages", "")
	}

	s.do("PUT", "/api/faults", `{"mode":"hang"}`)
	hung := make(chan error, 1)
	go func() { hung <- s.send("h", "hang", "ann@example.com") }()
	boxtest.Eventually(t, "the message hangs", 2*time.Minute, func() bool {
		res, err := http.Get("http://" + s.http + "/api/faults")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return strings.Contains(string(text), `"count":0`)
	})
	s.stop() // which a hanging client does not hold up
	if err := <-hung; err == nil {
		t.Error("a hanging server took the message")
	}

	s = start(t, s.dir)
	for _, body := range []string{``, `{"mode":"none"}`, `{"mode":"hang","count":0}`, `{"mode":"hang","how":1}`} {
		if status := s.do("PUT", "/api/faults", body); status != 400 {
			t.Errorf("PUT %s: %d", body, status)
		}
	}
	s.do("PUT", "/api/faults", `{"mode":"tempfail","count":9}`)
	if status := s.do("DELETE", "/api/faults", ""); status != 204 {
		t.Errorf("DELETE: %d", status)
	}
	if err := s.send("d", "after", "ann@example.com"); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	dir := t.TempDir()
	b, err := openMailbox(dir, 3, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := b.deliver("x@y", []string{"a@b"}, fmt.Appendf(nil, "Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\nx", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := subjects(b.list(10, "")); !reflect.DeepEqual(got, []string{"4", "3", "2"}) {
		t.Errorf("kept %v", got)
	}
	if err := b.deliver("x@y", []string{"a@b"}, []byte("Subject: large\r\n\r\n"+strings.Repeat("x", 1<<20))); err != nil {
		t.Fatal(err)
	}
	if got := subjects(b.list(10, "")); !reflect.DeepEqual(got, []string{"large"}) {
		t.Errorf("kept %v", got)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || len(b.seen) != 0 {
		t.Errorf("left: %v, %v, %v", files, b.seen, err)
	}
	s := start(t, t.TempDir())
	if err := s.raw([]string{"a@b"}, "Subject: x\r\n\r\n"+strings.Repeat("x\r\n", maxMessage/2)); err == nil {
		t.Error("a message beyond the limit was taken")
	}
}

// TestListMemory lists a large mailbox, which must not take the memory of its text again.
func TestListMemory(t *testing.T) {
	const messages, size = 256, 32 << 10
	b, err := openMailbox(t.TempDir(), maxKept, maxKeptBytes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		if _, err := b.receive(&Message{Subject: strconv.Itoa(i), Text: strings.Repeat("x", size)}, []string{"a@b"}); err != nil {
			t.Fatal(err)
		}
	}
	api, w := routes(b, &faults{}), &discard{header: http.Header{}}
	r := httptest.NewRequest(http.MethodGet, "/api/messages", nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	api.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	if w.bytes < messages*size {
		t.Errorf("the list has %d bytes, want more than %d", w.bytes, messages*size)
	}
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(messages*size*3/2); got > limit { // one text would be 2.6 times
		t.Errorf("a list of %d bytes allocated %d, want at most %d", w.bytes, got, limit)
	}

	var list []Message
	rec := httptest.NewRecorder()
	api.ServeHTTP(rec, r)
	if err := json.Unmarshal(rec.Body.Bytes(), &list); err != nil || len(list) != messages || list[0].Subject != "255" {
		t.Errorf("got %d messages, %v; want %d, the newest first", len(list), err, messages)
	}
	b.clear()
	rec = httptest.NewRecorder()
	if api.ServeHTTP(rec, r); rec.Body.String() != "[]\n" {
		t.Errorf("the list of an empty mailbox is %q, want []", rec.Body)
	}
}

// discard is a response that counts its bytes.
type discard struct {
	header http.Header
	bytes  int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.bytes += len(p); return len(p), nil }

// TestFiles: files of messages that are all too old are removed, others are not.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	b, err := openMailbox(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b.maxFile = 1000
	deliver := func(i int) {
		t.Helper()
		if err := b.deliver("x@y", []string{"a@b"}, fmt.Appendf(nil, "Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\n%s", i, i, strings.Repeat("x", 300))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		deliver(i)
		if i > 0 {
			deliver(i - 1) // again
		}
	}
	onDisk := func() []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	// 10 messages, 2 a file.
	if files := onDisk(); len(files) != len(b.files) || len(files) < 5 || len(files) > 6 {
		t.Errorf("%d files on disk, %d known, want 5 or 6 of both", len(files), len(b.files))
	}
	b.close()
	again, err := openMailbox(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	got, want := again.list(100, ""), b.list(100, "")
	if !reflect.DeepEqual(subjects(got), subjects(want)) || got[1].Deliveries != 2 {
		t.Errorf("after a new start %v, deliveries %d; want %v, 2", subjects(got), got[1].Deliveries, subjects(want))
	}
	b.maxBytes = 10_000
	for range 1000 { // the same again and again, which memory does not grow of
		deliver(99)
	}
	if b.disk > 21_000 || len(onDisk()) > 25 {
		t.Errorf("%d bytes in %d files, want no more than twice the bound of memory", b.disk, len(onDisk()))
	}
	b.clear()
	if files := onDisk(); len(files) != 0 || b.disk != 0 {
		t.Errorf("left after clear: %v, %d bytes", files, b.disk)
	}
}

// TestOneSync: those who deliver at the same time share syncs, and nobody has
// an answer before theirs.
func TestOneSync(t *testing.T) {
	b, err := openMailbox(t.TempDir(), 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b.syncing.Lock() // a sync is under way
	var group sync.WaitGroup
	var answered atomic.Int32
	for i := range 20 {
		group.Go(func() {
			if err := b.deliver("x@y", []string{"a@b"}, fmt.Appendf(nil, "Message-ID: <%d@x>\r\n\r\nx", i)); err != nil {
				t.Error(err)
			}
			answered.Add(1)
		})
	}
	boxtest.Eventually(t, "all are written", 2*time.Minute, func() bool {
		b.mu.RLock()
		defer b.mu.RUnlock()
		return b.written == 20
	})
	if n := answered.Load(); n != 0 {
		t.Errorf("%d answered before the sync", n)
	}
	b.syncing.Unlock()
	group.Wait()
	if b.syncs != 1 {
		t.Errorf("%d syncs for 20 messages, want 1", b.syncs)
	}
}

// TestFailedDisk: a message that is not on disk is not acknowledged, and
// neither is any after it.
func TestFailedDisk(t *testing.T) {
	b, err := openMailbox(t.TempDir(), 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	deliver := func() error { return b.deliver("x@y", []string{"a@b"}, []byte("Subject: x\r\n\r\nx")) }
	if err := deliver(); err != nil {
		t.Fatal(err)
	}
	path := b.current.Name()
	b.current.Close()
	if b.current, err = os.Open(path); err != nil { // for reading only
		t.Fatal(err)
	}
	for range 2 {
		if err := deliver(); err == nil || !strings.Contains(err.Error(), "restart the mail sink") {
			t.Errorf("got %v, want an error that says what to do", err)
		}
	}
	if got := b.list(10, ""); len(got) != 1 {
		t.Errorf("%d messages, want the first only", len(got))
	}
}
