package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/mail"
)

// The limits of the mailbox, which is in memory: beyond either, the oldest messages are
// removed. 50,000 of the shop's letters are some 100 MiB.
const (
	maxKept      = 50_000
	maxKeptBytes = 128 << 20
)

// maxFileBytes is the size at which a new file of messages is begun.
const maxFileBytes = 16 << 20

// Message is a message, in the API and on disk.
type Message struct {
	ID         string    `json:"id"` // sorts by time of receipt
	From       string    `json:"from"`
	To         []string  `json:"to"` // the envelope's recipients
	Subject    string    `json:"subject"`
	HTML       string    `json:"html"`
	Text       string    `json:"text"`
	Date       time.Time `json:"date"`
	MessageID  string    `json:"message_id"`
	ReceivedAt time.Time `json:"received_at"`
	// Deliveries is how often the message arrived: more than once if the sender had no
	// answer and tried again.
	Deliveries int `json:"deliveries"`

	file *file // the file that contains it
}

func (m *Message) size() int { return len(m.HTML) + len(m.Text) + len(m.Subject) + 512 }

// delivered identifies duplicates: like mailbox servers, the sink suppresses a message
// whose Message-ID a recipient already has (Cyrus' duplicatesuppression, Exchange's
// duplicate detection).
type delivered struct{ messageID, recipient string }

// mailbox stores messages in memory and on disk. Each file has messages as lines of JSON,
// in the order of their receipt, which is also the order of the files' names. A later
// line with the ID of an earlier one replaces it.
type mailbox struct {
	dir      string
	maxKept  int
	maxBytes int
	maxFile  int64

	mu       sync.RWMutex
	messages []*Message // oldest first
	files    []*file    // oldest first, in the order of the messages
	current  *os.File   // the last of files; if nil, the next message begins a new one
	seen     map[delivered]*Message
	bytes    int
	disk     int64 // bytes of files
	lastID   int64
	written  int64 // lines, since the start
	failure  error // of a sync, after which the content of the disk is unknown

	syncing sync.Mutex
	synced  int64 // how many of the written lines are on disk
	syncs   int
}

// file is one of the mailbox's files.
type file struct {
	path     string
	bytes    int64
	messages int // kept
}

func openMailbox(dir string, maxKept, maxBytes int) (*mailbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &mailbox{dir: dir, maxKept: maxKept, maxBytes: maxBytes, maxFile: maxFileBytes, seen: map[delivered]*Message{}}
	paths, err := filepath.Glob(filepath.Join(dir, "*.json")) // in the order of names, which is that of receipt
	if err != nil {
		return nil, err
	}
	byID := map[string]*Message{}
	for _, path := range paths {
		if err := b.load(path, byID); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// load reads a file. Its last line may be incomplete: that message was never
// acknowledged.
func (b *mailbox) load(path string, byID map[string]*Message) error {
	content, err := os.Open(path)
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	b.files = append(b.files, &file{path: path, bytes: info.Size()})
	b.disk += info.Size()
	name := strings.TrimSuffix(filepath.Base(path), ".json")
	b.used(name)
	for lines := json.NewDecoder(bufio.NewReader(content)); ; {
		m := &Message{}
		if err := lines.Decode(m); errors.Is(err, io.EOF) {
			break
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			break // an incomplete line
		} else if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if earlier := byID[m.ID]; earlier != nil {
			earlier.Deliveries = m.Deliveries
		} else if m.ID >= name { // otherwise its first line was in an earlier file, which is removed
			byID[m.ID] = m
			b.add(m)
			b.used(m.ID)
		}
	}
	b.trim()
	return nil
}

// nextID returns an ID that sorts after all earlier ones, even if the clock was set
// back.
func (b *mailbox) nextID() string {
	b.lastID = max(b.lastID+1, time.Now().UnixNano())
	return fmt.Sprintf("%016x", b.lastID)
}

func (b *mailbox) used(id string) {
	if n, err := strconv.ParseInt(id, 16, 64); err == nil {
		b.lastID = max(b.lastID, n)
	}
}

// add adds a message of the last file to those in memory.
func (b *mailbox) add(m *Message) {
	m.file = b.files[len(b.files)-1]
	m.file.messages++
	b.messages = append(b.messages, m)
	b.bytes += m.size()
	if m.MessageID != "" {
		for _, to := range m.To {
			b.seen[delivered{m.MessageID, to}] = m
		}
	}
}

// trim removes the oldest messages beyond the limits, and files without messages.
func (b *mailbox) trim() {
	for len(b.messages) > b.maxKept || len(b.messages) > 1 && b.bytes > b.maxBytes || len(b.messages) > 0 && b.disk > 2*int64(b.maxBytes) {
		oldest := b.messages[0]
		b.messages[0] = nil
		b.messages = b.messages[1:]
		b.bytes -= oldest.size()
		for _, to := range oldest.To {
			delete(b.seen, delivered{oldest.MessageID, to})
		}
		oldest.file.messages--
		b.removeFiles()
	}
}

func (b *mailbox) removeFiles() {
	for len(b.files) > 0 && b.files[0].messages == 0 && (len(b.files) > 1 || b.current == nil) {
		if err := os.Remove(b.files[0].path); err != nil {
			slog.Warn("message file not removed", "error", err)
		}
		b.disk -= b.files[0].bytes
		b.files = b.files[1:]
	}
}

// deliver stores the message for the recipients who do not have it yet. When it returns
// nil the message is on disk.
func (b *mailbox) deliver(from string, to []string, raw []byte) error {
	m := parse(raw)
	if m.From == "" {
		m.From = from
	}
	m.ReceivedAt = time.Now().UTC()
	if m.Date.IsZero() {
		m.Date = m.ReceivedAt
	}
	m.Deliveries = 1
	written, err := b.receive(m, to)
	if err != nil {
		return err
	}
	return b.sync(written)
}

// receive writes the message, or what has changed about it, and returns how many lines
// have been written.
func (b *mailbox) receive(m *Message, to []string) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != nil {
		return 0, b.failure
	}
	var again []*Message
	for _, recipient := range to {
		if earlier, ok := b.seen[delivered{m.MessageID, recipient}]; !ok || m.MessageID == "" {
			m.To = append(m.To, recipient)
		} else if !slices.Contains(again, earlier) {
			again = append(again, earlier)
		}
	}
	for _, earlier := range again {
		if err := b.write(&Message{ID: earlier.ID, Deliveries: earlier.Deliveries + 1}); err != nil {
			return 0, err
		}
		earlier.Deliveries++
	}
	if len(m.To) > 0 {
		if err := b.prepare(); err != nil {
			return 0, err
		}
		m.ID = b.nextID()
		if err := b.write(m); err != nil {
			return 0, err
		}
		b.add(m)
	}
	b.trim()
	return b.written, nil
}

// prepare makes sure that there is a last file with room for another line.
func (b *mailbox) prepare() (err error) {
	if b.current != nil && b.files[len(b.files)-1].bytes < b.maxFile {
		return nil
	}
	if b.current != nil {
		// Others may be waiting for a sync of this file, so it is synced before it is closed.
		if err := b.current.Sync(); err != nil {
			return b.fail(err)
		}
		b.end()
	}
	b.current, err = b.begin()
	return err
}

// write appends the message to the last file, completely or not at all.
func (b *mailbox) write(m *Message) error {
	if err := b.prepare(); err != nil {
		return err
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		return err
	}
	last := b.files[len(b.files)-1]
	if _, err := b.current.Write(line.Bytes()); err != nil {
		if cut := b.current.Truncate(last.bytes); cut != nil {
			return b.fail(errors.Join(err, cut))
		}
		return err
	}
	last.bytes += int64(line.Len())
	b.disk += int64(line.Len())
	b.written++
	return nil
}

// begin creates the next file.
func (b *mailbox) begin() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(b.dir, b.nextID()+".json"), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(b.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	b.files = append(b.files, &file{path: f.Name()})
	return f, nil
}

// end closes the last file.
func (b *mailbox) end() {
	if b.current == nil {
		return
	}
	if err := b.current.Close(); err != nil {
		slog.Warn("message file not closed", "error", err)
	}
	b.current = nil
	b.removeFiles()
}

// fail makes the mailbox reject all further messages. After a sync has failed, the
// content of the disk is unknown.
func (b *mailbox) fail(err error) error {
	b.failure = fmt.Errorf("the disk has failed: restart the mail sink: %w", err)
	return b.failure
}

// sync returns when so many lines are on disk. One call of fsync serves all that wait.
func (b *mailbox) sync(written int64) error {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	if b.synced >= written {
		return nil
	}
	b.mu.RLock()
	current, until, err := b.current, b.written, b.failure
	b.mu.RUnlock()
	if err == nil && current != nil {
		if err = current.Sync(); errors.Is(err, os.ErrClosed) {
			err = nil // it was synced before it was closed
		}
	}
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.fail(err)
	}
	b.synced = until
	b.syncs++
	return nil
}

// close ends writing.
func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
}

// list returns at most limit messages, newest first, and only those to the recipient
// unless that is empty.
func (b *mailbox) list(limit int, to string) []Message {
	b.mu.RLock()
	defer b.mu.RUnlock()
	list := []Message{}
	for _, m := range slices.Backward(b.messages) {
		if len(list) == limit {
			break
		}
		if to == "" || slices.ContainsFunc(m.To, func(r string) bool { return strings.EqualFold(r, to) }) {
			list = append(list, *m)
		}
	}
	return list
}

// clear removes all messages.
func (b *mailbox) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.files {
		f.messages = 0
	}
	b.messages, b.bytes = nil, 0
	clear(b.seen)
	b.end()
}

// parse sets the fields that the API shows. What is not a valid message is shown as text.
func parse(raw []byte) *Message {
	m := &Message{}
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) || r == nil {
		m.Text = string(raw)
		return m
	}
	m.Subject, _ = r.Header.Subject()
	if m.MessageID, _ = r.Header.MessageID(); m.MessageID == "" {
		m.MessageID = strings.Trim(r.Header.Get("Message-Id"), "<> ") // malformed, but still the same twice
	}
	if date, err := r.Header.Date(); err == nil {
		m.Date = date.UTC()
	}
	if from, err := r.Header.AddressList("From"); err == nil && len(from) > 0 {
		m.From = from[0].Address
	}
	for {
		part, err := r.NextPart()
		if err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) || part == nil {
			return m
		}
		header, ok := part.Header.(*mail.InlineHeader)
		if !ok {
			continue // an attachment
		}
		body, _ := io.ReadAll(part.Body)
		switch kind, _, _ := header.ContentType(); kind {
		case "text/html":
			m.HTML += string(body)
		case "text/plain", "":
			m.Text += string(body)
		}
	}
}
