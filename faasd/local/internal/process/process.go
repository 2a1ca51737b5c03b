// Package process runs the box's parts: children that never outlive the
// process that started them, and whose output lands in bounded files.
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

// Command says what to start.
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

// starter runs every start on one thread that never ends: on Linux a child's
// parent-death signal fires when the thread that forked it exits, not only
// when the process does (golang/go#27505).
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

// Start starts a child in a process group of its own, so that a terminal's
// interrupt reaches only this process, which then stops the parts in order.
func Start(c Command) (*Process, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.Dir, c.Env, c.Files
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.SysProcAttr = attributes()
	// A grandchild that kept the output open must not hold Wait up.
	cmd.WaitDelay = time.Second
	// The child sees the end of its standard input when this process is gone:
	// where there is no parent-death signal, ours stop by that.
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

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the child ended; call it after Done.
func (p *Process) Err() error { return p.err }

// Kill ends the child and what it started in its group at once.
func (p *Process) Kill() { _ = syscall.Kill(-p.PID(), syscall.SIGKILL) }

// Stop sends the signal, waits up to grace, then kills. It returns when the
// child is gone.
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

// Run runs a command to its end, or until ctx ends.
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

// ExitWithParent ends this process when its standard input reaches its end,
// which happens when the process that holds the other side is gone.
func ExitWithParent() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
}
