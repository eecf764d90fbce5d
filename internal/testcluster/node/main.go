// Command node starts the programs of a cluster in the sandbox that it is the first command of, says on stdout how far it is,
// and ends with them.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/grimoire-build/grimoire/internal/testcluster"
)

// starting is how long a cluster may take to be ready.
const starting = 3 * time.Minute

func main() {
	runtime.LockOSThread() // the kernel ends our children with the thread that started them
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var n testcluster.Node
	if len(os.Args) != 2 || json.Unmarshal([]byte(os.Args[1]), &n) != nil {
		fmt.Fprintln(os.Stderr, "usage: node CONFIG; the package testcluster starts it")
		os.Exit(2)
	}
	c := &cluster{Node: n, ended: make(chan error, 16)}
	err := c.run(ctx)
	c.say("", err)
	c.stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

type cluster struct {
	testcluster.Node
	client    *http.Client
	programs  []*running
	ended     chan error
	apiServer *running
}

// running is a program that was started.
type running struct {
	*exec.Cmd
	waited   chan struct{}
	expected atomic.Bool // to end
}

// say writes a step, or the error that was the last one.
func (c *cluster) say(step string, err error) {
	if step == "" && err == nil {
		return
	}
	line := struct{ Step, Error string }{Step: step}
	if err != nil {
		line.Error = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// run starts everything and returns when one of the programs has ended or ctx has.
func (c *cluster) run(ctx context.Context) error {
	if err := c.up(ctx); err != nil {
		return err
	}
	c.say(testcluster.Ready, nil)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-c.ended:
			return err
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := c.restartIfAsked(); err != nil {
				return err
			}
		}
	}
}

// restartIfAsked kills the API server and starts it anew, where a file asks for that.
func (c *cluster) restartIfAsked() error {
	if err := os.Remove(c.Path(testcluster.RestartFile)); err != nil {
		return nil
	}
	c.apiServer.expected.Store(true)
	_ = c.apiServer.Process.Kill()
	<-c.apiServer.waited
	return c.startAPIServer()
}

func (c *cluster) startAPIServer() error {
	err := c.start(c.Kubernetes, c.APIServer())
	c.apiServer = c.programs[len(c.programs)-1]
	return err
}

func (c *cluster) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, starting, fmt.Errorf("it was not ready after %s", starting))
	defer cancel()
	if err := c.connect(); err != nil {
		return err
	}
	if !c.ControlPlane {
		if err := c.prepareNode(ctx); err != nil {
			return err
		}
	}
	if err := c.start(c.Kubernetes, c.Etcd()); err != nil {
		return err
	}
	if err := c.startAPIServer(); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server answers", c.answers("/readyz")); err != nil {
		return err
	}
	// Not before now: a controller manager that is refused its first question ends for good.
	for _, args := range [][]string{c.ControllerManager(), c.Scheduler()} {
		if err := c.start(c.Kubernetes, args); err != nil {
			return err
		}
	}
	if !c.ControlPlane {
		if err := c.importPause(ctx); err != nil {
			return err
		}
		for _, args := range [][]string{c.Kubelet(), c.Proxy()} {
			if err := c.start(c.Kubernetes, args); err != nil {
				return err
			}
		}
	}
	// Without it no pod is admitted.
	if err := c.await(ctx, "the controllers work", c.answers("/api/v1/namespaces/default/serviceaccounts/default")); err != nil {
		return err
	}
	if c.ControlPlane {
		return nil
	}
	if err := c.await(ctx, "the node is ready", c.nodeReady); err != nil {
		return err
	}
	return c.await(ctx, "services lead to their pods", proxyHealthy)
}

// connect makes the client of an administrator.
func (c *cluster) connect() error {
	authority, err := os.ReadFile(c.PKI("ca.crt"))
	if err != nil {
		return err
	}
	admin, err := tls.LoadX509KeyPair(c.PKI("admin.crt"), c.PKI("admin.key"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	c.client = &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}}},
		Timeout:   10 * time.Second,
	}
	return nil
}

// prepareNode gives the node its address, and starts containerd.
func (c *cluster) prepareNode(ctx context.Context) error {
	if err := c.WriteConfig(); err != nil {
		return err
	}
	for _, args := range testcluster.NetworkCommands() {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("running %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0o644); err != nil {
		return err
	}
	containerd := c.Containerd()
	return c.start(containerd[0], containerd)
}

func (c *cluster) importPause(ctx context.Context) error {
	return c.await(ctx, "containerd runs", func(ctx context.Context) error {
		args := c.Import()
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// start starts a program, named by its first argument, with a log of its own.
func (c *cluster) start(program string, args []string) error {
	name := args[0]
	if err := os.MkdirAll(c.Path("logs"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(c.Path("logs", name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args[1:]...)
	if program == c.Kubernetes {
		cmd.Args = append([]string{program}, args...)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, log, log
	endWithUs(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	p := &running{Cmd: cmd, waited: make(chan struct{})}
	c.programs = append(c.programs, p)
	go func() {
		err := cmd.Wait()
		close(p.waited)
		if p.expected.Load() {
			return
		}
		data, _ := os.ReadFile(c.Path("logs", name))
		c.ended <- fmt.Errorf("%s has ended: %v; the end of its log: %s", name, err, data[max(0, len(data)-2000):])
	}()
	return nil
}

// stop ends the programs, the last first.
func (c *cluster) stop() {
	for i := len(c.programs) - 1; i >= 0; i-- {
		_ = c.programs[i].Process.Kill() // nothing of theirs is kept
		<-c.programs[i].waited
	}
}

// await asks until there is no error, and says the step then.
func (c *cluster) await(ctx context.Context, step string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			c.say(step, nil)
			return nil
		}
		select {
		case err := <-c.ended:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w; still waited for: %s: %w", context.Cause(ctx), step, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// answers asks the API server for a path, and wants it to be there.
func (c *cluster) answers(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := c.get(ctx, path)
		return err
	}
}

func (c *cluster) nodeReady(ctx context.Context) error {
	data, err := c.get(ctx, "/api/v1/nodes/"+testcluster.NodeName)
	if err != nil {
		return err
	}
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := json.Unmarshal(data, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return errors.New(condition.Message)
		}
	}
	return errors.New("the kubelet has said nothing yet")
}

func (c *cluster) get(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, c.client, c.Server()+path)
}

func proxyHealthy(ctx context.Context) error {
	_, err := get(ctx, http.DefaultClient, "http://127.0.0.1:10256/healthz")
	return err
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, response.Status, data)
	}
	return data, nil
}
