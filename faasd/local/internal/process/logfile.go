package process

import (
	"os"
	"sync"
)

// maxLogFile is the largest log file, in bytes. One older file is kept, so a part's
// logs take at most twice this.
const maxLogFile = 8 << 20

// LogFile is an append-only file that is renamed to NAME.1 at maxLogFile bytes. Its
// writes never fail: a full disk must not stop the part that logs.
type LogFile struct {
	path string
	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenLog opens the file for appending. Only the owner can read it, since a part may
// log parts of requests.
func OpenLog(path string) (*LogFile, error) {
	l := &LogFile{path: path}
	return l, l.open()
}

func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.size > 0 && l.size+int64(len(p)) > maxLogFile {
		_ = l.file.Close()
		l.file = nil
		_ = os.Rename(l.path, l.path+".1")
	}
	if l.file == nil && l.open() != nil {
		return len(p), nil
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// Close closes the file; a later write opens it again.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
