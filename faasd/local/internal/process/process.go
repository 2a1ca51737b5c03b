// Package process runs child processes that end with their parent, and writes their
// output to bounded files.
package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Command describes a child process.
type Command struct {
	Path   string // the executable
	Args   []string
	Dir    string
	Env    []string   // the whole environment: nothing is inherited
	Output io.Writer  // standard output and standard error
	Files  []*os.File // inherited as descriptors 3, 4, ...
}

// Process is a started child.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
	err   error
}

// starter runs every start on one thread that never exits: on Linux a child gets its
// parent-death signal when the thread that forked it exits, not only when the process
// does (golang/go#27505).
var starter = sync.OnceValue(func() chan<- func() {
	starts := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
	return starts
})

// Start starts a child in its own process group, so that a terminal's interrupt
// reaches only this process, which then stops its children in order.
func Start(c Command) (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.Dir, c.Env, c.Files
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.SysProcAttr = attributes()
	// Wait must not wait for a grandchild that keeps the output open.
	cmd.WaitDelay = time.Second
	// The child's standard input is closed when this process ends: without a
	// parent-death signal, ExitWithParent makes the box's own programs exit then.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	p := &Process{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID returns the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed once the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the child ended. It may be called after Done is closed.
func (p *Process) Err() error { return p.err }

// Kill sends SIGKILL to the child and its process group.
func (p *Process) Kill() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) }

// Stop sends the signal, waits up to grace, and then kills the child. It returns when
// the child has ended.
func (p *Process) Stop(signal syscall.Signal, grace time.Duration) {
	_ = p.cmd.Process.Signal(signal)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
		<-p.done
	}
}

// Run runs a command until it or ctx ends. It fails if the command does.
func Run(ctx context.Context, c Command) error {
	p, err := Start(c)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		<-p.Done()
		return ctx.Err()
	}
	return p.Err()
}

// ExitWithParent makes this process exit when its standard input is closed, which
// happens when its parent ends.
func ExitWithParent() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
}
