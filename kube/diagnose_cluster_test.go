package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/internal/needs"
	"github.com/grimoire-build/grimoire/kube"
)

// podManifest is a Deployment of one replica with a container of the app; more goes into the container, pod into the pod.
func podManifest(image, container, pod string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
%s
      containers:
      - name: app
        image: %s
%s`, pod, image, container)
}

// failingCase is a way for a rollout to fail.
type failingCase struct {
	name string
	// prepare makes what has to be there before.
	prepare  func(c *realCluster)
	manifest func(image string) string
	// decisive reports whether the cluster has said enough for the failure to be certain.
	decisive func(s snapshot) bool
	want     []string
	check    func(t *testing.T, d *kube.Diagnosis)
	slow     bool // certain only after some time by the rule
}

// snapshot is what a raw look at the namespace shows.
type snapshot struct {
	pods   []pod
	events []struct{ Reason, Message string }
}

func (s snapshot) waiting(reasons ...string) bool {
	for _, pod := range s.pods {
		for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
			for _, reason := range reasons {
				if status.State.Waiting != nil && status.State.Waiting.Reason == reason {
					return true
				}
			}
		}
	}
	return false
}

func (s snapshot) event(reason, message string) bool {
	for _, event := range s.events {
		if event.Reason == reason && strings.Contains(event.Message, message) {
			return true
		}
	}
	return false
}

// watch keeps a snapshot up to date by raw watches, and sends the time at which holds is true first.
func (c *realCluster) watch(ctx context.Context, holds func(snapshot) bool) <-chan time.Time {
	var mu sync.Mutex
	var s snapshot
	byName := map[string]pod{}
	decided := make(chan time.Time, 1)
	for _, collection := range []string{"pods", "events"} {
		cmd := c.command(ctx, "get", "--raw", "/api/v1/namespaces/"+c.namespace+"/"+collection+"?watch=true")
		out, err := cmd.StdoutPipe()
		require.NoError(c.t, err)
		require.NoError(c.t, cmd.Start())
		go func() {
			defer func() { _ = cmd.Wait() }()
			for decoder := json.NewDecoder(out); ; {
				var event struct{ Object json.RawMessage }
				if decoder.Decode(&event) != nil {
					return
				}
				now := time.Now()
				mu.Lock()
				if collection == "pods" {
					var p pod
					_ = json.Unmarshal(event.Object, &p)
					byName[p.Metadata.Name] = p
					s.pods = slices.Collect(maps.Values(byName))
				} else {
					var e struct{ Reason, Message string }
					_ = json.Unmarshal(event.Object, &e)
					s.events = append(s.events, e)
				}
				if holds(s) {
					select {
					case decided <- now:
					default:
					}
				}
				mu.Unlock()
			}
		}()
	}
	return decided
}

var failingCases = []failingCase{
	{
		name:     "missing image",
		manifest: func(image string) string { return podManifest(strings.Split(image, "/")[0]+"/nobody:1", "", "") },
		decisive: func(s snapshot) bool { return s.waiting("ErrImagePull", "ImagePullBackOff") },
		want:     []string{"container app: ErrImagePull", "/nobody:1", "not found", "push the image, or mend its name in the manifest"},
	},
	{
		name:     "private image",
		manifest: func(string) string { return podManifest("PRIVATE/app:1", "", "") },
		decisive: func(s snapshot) bool { return s.waiting("ErrImagePull", "ImagePullBackOff") },
		want:     []string{"container app: ErrImagePull", "imagePullSecret"},
	},
	{
		name:     "invalid image name",
		manifest: func(string) string { return podManifest("Not/An:Image:1", "", "") },
		decisive: func(s snapshot) bool { return s.waiting("InvalidImageName") },
		want:     []string{"container app: InvalidImageName", "mend the image's name in the manifest: Not/An:Image:1"},
	},
	{
		name:     "crash loop",
		manifest: func(image string) string { return podManifest(image, `        env: [{name: EXIT, value: "3"}]`, "") },
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"container app: ", "exit code 3, 2 restarts", "    | cannot open the database: no such host", "see the log"},
		check: func(t *testing.T, d *kube.Diagnosis) {
			assert.EqualValues(t, 3, d.ExitCode)
			assert.Equal(t, "app", d.Container)
		},
	},
	{
		name:     "ends by itself",
		manifest: func(image string) string { return podManifest(image, `        env: [{name: EXIT, value: "0"}]`, "") },
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"exit code 0", "the program ends by itself and without an error; a Deployment's has to go on"},
	},
	{
		name: "missing ConfigMap",
		manifest: func(image string) string {
			return podManifest(image, `        envFrom: [{configMapRef: {name: settings}}]`, "")
		},
		decisive: func(s snapshot) bool { return s.waiting("CreateContainerConfigError") },
		want:     []string{"CreateContainerConfigError", `configmap "settings" not found`, "add it to the manifests, or mend the reference"},
	},
	{
		name:    "missing key of a Secret",
		prepare: func(c *realCluster) { c.run("create", "secret", "generic", "login", "--from-literal=user=ci") },
		manifest: func(image string) string {
			return podManifest(image, `        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]`, "")
		},
		decisive: func(s snapshot) bool { return s.waiting("CreateContainerConfigError") },
		want:     []string{"CreateContainerConfigError", "couldn't find key password in Secret", "mend the reference"},
	},
	{
		name: "missing volume",
		manifest: func(image string) string {
			return podManifest(image, `        volumeMounts: [{name: v, mountPath: /v}]`, `      volumes: [{name: v, configMap: {name: files}}]`)
		},
		decisive: func(s snapshot) bool { return s.event("FailedMount", "not found") },
		want:     []string{"FailedMount", `configmap "files" not found`, "add it to the manifests, or mend the name in the pod's volumes"},
	},
	{
		name:     "bad command",
		manifest: func(image string) string { return podManifest(image, `        command: [no-such-program]`, "") },
		decisive: func(s snapshot) bool {
			return s.waiting("RunContainerError", "CrashLoopBackOff") || s.event("Failed", "no-such-program")
		},
		want: []string{"no-such-program", "mend the container's command"},
	},
	{
		name: "failing liveness probe",
		manifest: func(image string) string {
			return podManifest(image, `        env: [{name: SICK, value: "yes"}]
        livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 1}
        readinessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1}`, "")
		},
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"failed liveness probe", "have its probe answer, or let it fail longer"},
	},
	{
		name: "failing startup probe",
		manifest: func(image string) string {
			return podManifest(image, `        env: [{name: SICK, value: "yes"}]
        startupProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 3}`, "")
		},
		decisive: func(s snapshot) bool {
			return len(s.pods) > 0 && len(s.pods[0].Status.ContainerStatuses) > 0 && s.pods[0].Status.ContainerStatuses[0].RestartCount > 0
		},
		want: []string{"Startup probe failed", "have the startup probe answer"},
	},
	{
		name: "out of memory",
		manifest: func(image string) string {
			return podManifest(image, "        env: [{name: ALLOCATE, value: \"200\"}]\n        resources: {limits: {memory: 32Mi}}", "")
		},
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"OOMKilled, exit code 137", "raise the container's resources.limits.memory, which is 32Mi"},
	},
	{
		name: "unschedulable",
		manifest: func(image string) string {
			return podManifest(image, `        resources: {requests: {cpu: "1000"}}`, "")
		},
		decisive: func(s snapshot) bool { return s.event("FailedScheduling", "Insufficient cpu") },
		want:     []string{"Unschedulable", "Insufficient cpu", "lower the containers' resources.requests, or add nodes"},
		slow:     true,
	},
	{
		name:     "no such node",
		manifest: func(image string) string { return podManifest(image, "", `      nodeSelector: {disk: fast}`) },
		decisive: func(s snapshot) bool { return s.event("FailedScheduling", "didn't match") },
		want:     []string{"Unschedulable", "label a node so, or mend the pod's nodeSelector and affinity"},
		slow:     true,
	},
	{
		name: "missing claim",
		manifest: func(image string) string {
			return podManifest(image, "", `      volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]`)
		},
		decisive: func(s snapshot) bool { return s.event("FailedScheduling", `persistentvolumeclaim "data" not found`) },
		want:     []string{`persistentvolumeclaim "data" not found`, "add the PersistentVolumeClaim to the manifests"},
	},
	{
		name:     "quota",
		prepare:  func(c *realCluster) { c.run("create", "quota", "none", "--hard=pods=0") },
		manifest: func(image string) string { return podManifest(image, "", "") },
		decisive: func(s snapshot) bool { return s.event("FailedCreate", "exceeded quota: none") },
		want:     []string{"its pods: FailedCreate", "exceeded quota: none", "raise the quota"},
	},
	{
		name: "pod security",
		prepare: func(c *realCluster) {
			c.run("label", "namespace", c.namespace, "pod-security.kubernetes.io/enforce=restricted")
		},
		manifest: func(image string) string { return podManifest(image, "", "") },
		decisive: func(s snapshot) bool { return s.event("FailedCreate", "violates PodSecurity") },
		want:     []string{"violates PodSecurity", "set in the pod's securityContext what it names"},
	},
	{
		name: "limit range",
		prepare: func(c *realCluster) {
			cmd := c.command(c.t.Context(), "apply", "--filename=-")
			cmd.Stdin = strings.NewReader("{apiVersion: v1, kind: LimitRange, metadata: {name: small}, spec: {limits: [{type: Container, max: {memory: 16Mi}}]}}")
			out, err := cmd.CombinedOutput()
			require.NoError(c.t, err, "%s", out)
		},
		manifest: func(image string) string {
			return podManifest(image, `        resources: {limits: {memory: 32Mi}}`, "")
		},
		decisive: func(s snapshot) bool { return s.event("FailedCreate", "maximum memory usage per Container") },
		want:     []string{"maximum memory usage per Container is 16Mi", "mend the pod's template in the manifest"},
	},
	{
		name:     "missing service account",
		manifest: func(image string) string { return podManifest(image, "", `      serviceAccountName: robot`) },
		decisive: func(s snapshot) bool { return s.event("FailedCreate", "robot") },
		want:     []string{`serviceaccount "robot" not found`, "add the ServiceAccount to the manifests, or mend serviceAccountName"},
	},
	{
		name: "failing init container",
		manifest: func(image string) string {
			return podManifest(image, "", fmt.Sprintf(`      initContainers: [{name: prepare, image: %s, env: [{name: EXIT, value: "5"}]}]`, image))
		},
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"init container prepare: ", "exit code 5", "    | cannot open the database: no such host"},
	},
	{
		name: "failing Job",
		manifest: func(image string) string {
			return strings.NewReplacer("IMAGE", image, "CODE", "4", ", annotations: {grimoire.build/hook: before-rollout}", "", "---\n", "").Replace(hookManifest)
		},
		decisive: func(s snapshot) bool { return s.event("BackoffLimitExceeded", "") },
		want:     []string{"Job/migrate", "BackoffLimitExceeded", "container app: Error, exit code 4", "    | cannot open the database: no such host"},
	},
	{
		name:    "a StatefulSet that may not make pods",
		prepare: func(c *realCluster) { c.run("create", "quota", "none", "--hard=pods=0") },
		manifest: func(image string) string {
			return strings.NewReplacer("kind: Deployment", "kind: StatefulSet", "spec:\n  selector", "spec:\n  serviceName: app\n  selector").Replace(podManifest(image, "", ""))
		},
		decisive: func(s snapshot) bool { return s.event("FailedCreate", "exceeded quota: none") },
		want:     []string{"StatefulSet/app", "FailedCreate", "exceeded quota: none"},
	},
	{
		name: "a DaemonSet that crashes",
		manifest: func(image string) string {
			return strings.Replace(podManifest(image, `        env: [{name: EXIT, value: "3"}]`, ""), "kind: Deployment", "kind: DaemonSet", 1)
		},
		decisive: func(s snapshot) bool { return s.waiting("CrashLoopBackOff") },
		want:     []string{"DaemonSet/app", "exit code 3", "    | cannot open the database: no such host"},
	},
}

func TestClusterExplains(t *testing.T) {
	for _, tt := range failingCases {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			if tt.prepare != nil {
				tt.prepare(c)
			}
			manifest := tt.manifest(needs.App(t))
			if strings.Contains(manifest, "PRIVATE") {
				manifest = strings.ReplaceAll(manifest, "PRIVATE", privateRegistry(t))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			decided := c.watch(ctx, tt.decisive)
			time.Sleep(500 * time.Millisecond) // until it watches
			objects := c.apply(manifest)
			begun := time.Now()
			kubectl := c.rolloutStatus(ctx, objects[0])
			err := c.Wait(t.Context(), objects, kube.WaitOptions{Timeout: 90 * time.Second})
			ended := time.Now()
			says := kubectl()
			assert.NotContains(t, says, "error", "kubectl was faster")
			var failed *kube.WaitError
			require.ErrorAs(t, err, &failed)
			require.NoError(t, failed.Err, "it is no time-out: %v", err)
			require.Len(t, failed.Objects, 1)
			require.NotNil(t, failed.Objects[0].Diagnosis, "%v", err)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			if tt.check != nil {
				tt.check(t, failed.Objects[0].Diagnosis)
			}
			lag := "none: it was certain before"
			select {
			case at := <-decided:
				lag = fmt.Sprint(ended.Sub(at).Round(time.Millisecond))
			default:
			}
			t.Logf("%-40s after %8s, lag %s; kubectl rollout status %s", tt.name, ended.Sub(begun).Round(time.Millisecond), lag, says)
			if os.Getenv("SHOW") != "" {
				t.Logf("\n%v", err)
			}
		})
	}
}

// rolloutStatus begins kubectl's wait for the same workload, and returns what tells how far it is.
func (c *realCluster) rolloutStatus(ctx context.Context, o *kube.Object) func() string {
	if o.GetKind() == "Job" {
		return func() string { return "does not know Jobs" }
	}
	cmd := c.command(ctx, "rollout", "status", o.GetKind()+"/"+o.GetName())
	done := make(chan error, 1)
	require.NoError(c.t, cmd.Start())
	go func() { done <- cmd.Wait() }()
	return func() string {
		select {
		case err := <-done:
			if err == nil {
				return "had told success"
			}
			return "had told an error: " + err.Error()
		default:
			return "still waits"
		}
	}
}

// privateRegistry asks for a login.
func privateRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// What passes by itself does not end the wait.
func TestClusterIsPatient(t *testing.T) {
	tests := []struct {
		name     string
		manifest func(image string) string
	}{
		{"one crash", func(image string) string {
			return podManifest(image, `        env: [{name: EXIT_ONCE, value: /v/once}]
        volumeMounts: [{name: v, mountPath: /v}]`, `      volumes: [{name: v, emptyDir: {}}]`)
		}},
		{"a slow start", func(image string) string {
			return podManifest(image, `        env: [{name: UNREADY, value: "8"}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}`, "")
		}},
		{"a slow pull", func(image string) string { return podManifest("SLOW/"+strings.SplitN(image, "/", 2)[1], "", "") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t)
			image := needs.App(t)
			manifest := tt.manifest(image)
			if strings.Contains(manifest, "SLOW") {
				manifest = strings.ReplaceAll(manifest, "SLOW", slowRegistry(t, strings.Split(image, "/")[0]))
			}
			require.NoError(t, c.Wait(t.Context(), c.apply(manifest), kube.WaitOptions{Timeout: time.Minute}))
		})
	}
}

// slowRegistry stands before another one and takes its time, and fails at first.
func slowRegistry(t *testing.T, other string) string {
	t.Helper()
	failures := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			time.Sleep(2 * time.Second)
		}
		if strings.Contains(r.URL.Path, "/manifests/") && failures > 0 {
			failures--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		resp, err := http.Get("http://" + other + r.URL.Path)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
