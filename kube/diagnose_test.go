package kube_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/grimoire-build/grimoire/kube"
)

const (
	plainDeployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: pay, uid: d}, spec: {replicas: 1}}`
	plainJob        = `{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, uid: j}}`
)

// podWith is a pod of one container with a status.
func podWith(status string) string { return podOf("{name: app, image: shop/pay:1}", status) }

func podOf(container, status string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: pay-1, uid: p}, spec: {containers: [` + container + `]},
status: {phase: Running, containerStatuses: [{name: app, ` + status + `}]}}`
}

// An operator's reading of the rule: what is seen, and how long it has to last.
func TestDiagnose(t *testing.T) {
	const (
		atOnce  = 0
		never   = time.Duration(-1)
		crashed = "terminated: {exitCode: 3, reason: Error, startedAt: \"2026-01-01T00:00:00Z\", finishedAt: \"2026-01-01T00:00:05Z\"}"
		long    = "terminated: {exitCode: 3, reason: Error, startedAt: \"2026-01-01T00:00:00Z\", finishedAt: \"2026-01-01T00:05:00Z\"}"
		calm    = "terminated: {exitCode: 3, reason: Error, startedAt: \"2026-01-01T00:00:00Z\", finishedAt: \"2026-01-02T00:00:00Z\"}"
		backOff = "waiting: {reason: CrashLoopBackOff, message: back-off 10s}"
	)
	pull := func(reason, message string) string {
		return podWith("state: {waiting: {reason: " + reason + ", message: " + message + "}}")
	}
	tests := []struct {
		name     string
		workload string // default: a Deployment
		pod      string
		events   []kube.TestEvent
		around   kube.Around
		after    time.Duration // until it is certain
		want     string        // in the diagnosis; empty where there is none
		waits    string
	}{
		{name: "ready", pod: `{apiVersion: v1, kind: Pod, metadata: {name: pay-1}, status: {conditions: [{type: Ready, status: "True"}]}}`, after: never},
		{name: "image not there", pod: pull("ErrImagePull", `'"shop/pay:1": not found'`), after: atOnce, want: "push the image", waits: "1 pod cannot pull the image"},
		{name: "image not there, once more", pod: pull("ImagePullBackOff", `'Back-off pulling image "shop/pay:1": manifest unknown'`), after: atOnce, want: "push the image"},
		{name: "image not there, said by an event alone", pod: pull("ImagePullBackOff", `Back-off pulling image`), after: atOnce, want: "push the image",
			events: []kube.TestEvent{{UID: "p", Reason: "Failed", Message: `Failed to pull image "shop/pay:1": not found`}}},
		{name: "image of others", pod: pull("ErrImagePull", "'pull access denied, repository does not exist or may require authorization'"), after: atOnce, want: "imagePullSecret"},
		{name: "login refused", pod: pull("ErrImagePull", "401 Unauthorized"), after: atOnce, want: "imagePullSecret"},
		{name: "registry slow", pod: pull("ErrImagePull", "context deadline exceeded"), after: 2 * time.Minute, want: "can reach the registry"},
		{name: "registry down", pod: pull("ErrImagePull", "503 Service Unavailable"), after: 2 * time.Minute, want: "can reach the registry"},
		{name: "registry busy", pod: pull("ErrImagePull", "429 Too Many Requests"), after: 2 * time.Minute, want: "can reach the registry"},
		{name: "registry's name", pod: pull("ErrImagePull", "no such host"), after: 2 * time.Minute, want: "can reach the registry"},
		{name: "image's name", pod: pull("InvalidImageName", "x"), after: atOnce, want: "mend the image's name"},
		{name: "pulling", pod: podWith("state: {waiting: {reason: ContainerCreating}}"), after: never, waits: "1 pod not ready",
			events: []kube.TestEvent{{UID: "p", Reason: "Pulling", Message: "Pulling image"}}},
		{name: "pulling at first", pod: pending, after: never, waits: "1 pod pulling images", events: []kube.TestEvent{{UID: "p", Reason: "Pulling", Message: "Pulling image"}}},
		{name: "Secret not there", pod: pull("CreateContainerConfigError", `secret "login" not found`), after: atOnce, want: "add it to the manifests"},
		{name: "Secret that an operator may make", pod: pull("CreateContainerConfigError", `secret "login" not found`), around: kube.Around{Operators: true},
			after: 30 * time.Second, want: "add it to the manifests"},
		{name: "root that must not be", pod: pull("CreateContainerConfigError", `container has runAsNonRoot and image will run as root`), after: atOnce, want: "numeric user"},
		{name: "configuration, otherwise", pod: pull("CreateContainerConfigError", `who knows`), after: time.Minute, want: "CreateContainerConfigError"},
		{name: "another platform", pod: pull("RunContainerError", "exec format error"), after: atOnce, want: "build the image for the platform"},
		{name: "container, otherwise", pod: pull("CreateContainerError", "context deadline exceeded"), after: time.Minute, want: "look at the node"},
		{name: "one crash", pod: podWith("restartCount: 0, state: {" + crashed + "}"), after: never, want: "exit code 3"},
		{name: "one crash, running again", pod: podWith("restartCount: 1, state: {running: {startedAt: x}}, lastState: {" + crashed + "}"), after: never, waits: "1 pod not ready yet"},
		{name: "one crash, backing off", pod: podWith("restartCount: 0, state: {" + backOff + "}, lastState: {" + crashed + "}"), after: never, want: "exit code 3"},
		{name: "second crash", pod: podWith("restartCount: 1, state: {" + crashed + "}, lastState: {" + crashed + "}"), after: never, want: "exit code 3, 1 restart"},
		{name: "second crash, backing off", pod: podWith("restartCount: 1, state: {" + backOff + "}, lastState: {" + crashed + "}"), after: never, want: "exit code 3, 1 restart"},
		{name: "third crash", pod: podWith("restartCount: 2, state: {" + crashed + "}, lastState: {" + crashed + "}"), after: atOnce, want: "exit code 3, 2 restarts"},
		{name: "third crash, backing off", pod: podWith("restartCount: 2, state: {" + backOff + "}, lastState: {" + crashed + "}"), after: atOnce, want: "exit code 3, 2 restarts"},
		{name: "third crash, running again", pod: podWith("restartCount: 3, state: {running: {startedAt: x}}, lastState: {" + crashed + "}"), after: atOnce, want: "exit code 3, 3 restarts"},
		{name: "crashes of long ago, not ready for a moment", pod: podWith("restartCount: 6, state: {running: {startedAt: \"1969-12-31T23:00:00Z\"}}, lastState: {" + crashed + "}"),
			after: never, waits: "1 pod not ready yet"},
		{name: "no memory, long ago", pod: podWith("restartCount: 2, state: {running: {startedAt: \"1969-12-31T23:00:00Z\"}}, lastState: {terminated: {exitCode: 137, reason: OOMKilled}}"),
			after: never, waits: "1 pod not ready yet"},
		{name: "no program, long ago", pod: podWith("restartCount: 2, state: {running: {startedAt: \"1969-12-31T23:00:00Z\"}}, lastState: {terminated: {exitCode: 127, reason: StartError, message: exec format error}}"),
			after: never, waits: "1 pod not ready yet"},
		{name: "one crash after many of long ago", pod: podWith("restartCount: 6, state: {" + calm + "}, lastState: {" + crashed + "}"), after: never, want: "exit code 3, 6 restarts"},
		{name: "third crash, others not ready", pod: podWith("restartCount: 2, state: {" + backOff + "}, lastState: {" + crashed + "}"), around: kube.Around{Busy: true}, after: never, want: "exit code 3"},
		{name: "fifth crash, others not ready", pod: podWith("restartCount: 4, state: {" + backOff + "}, lastState: {" + crashed + "}"), around: kube.Around{Busy: true}, after: atOnce, want: "exit code 3"},
		{name: "third crash after a long run", pod: podWith("restartCount: 2, state: {" + backOff + "}, lastState: {" + long + "}"), after: never, want: "exit code 3"},
		{name: "fifth crash after a long run", pod: podWith("restartCount: 4, state: {" + backOff + "}, lastState: {" + long + "}"), after: atOnce, want: "exit code 3"},
		{name: "a namespace's own service account", workload: creating(`error looking up service account shop/default: serviceaccount "default" not found`), after: 30 * time.Second,
			want: "serviceAccountName"},
		{name: "a service account", workload: creating(`error looking up service account shop/robot: serviceaccount "robot" not found`), after: atOnce, want: "serviceAccountName"},
		{name: "a namespace's own certificate", pod: pending, after: 2 * time.Minute, want: "look at the volume's own status",
			events: []kube.TestEvent{{UID: "p", Reason: "FailedMount", Message: `MountVolume.SetUp failed for volume "kube-api-access" : configmap "kube-root-ca.crt" not found`}}},
		{name: "a Job's crash", workload: plainJob, pod: podWith("restartCount: 5, state: {" + backOff + "}, lastState: {" + crashed + "}"), after: never, want: "exit code 3"},
		{name: "memory", pod: podOf("{name: app, resources: {limits: {memory: 32Mi}}}", "restartCount: 1, state: {terminated: {exitCode: 137, reason: OOMKilled}}"), after: atOnce, want: "which is 32Mi"},
		{name: "readiness, failing", pod: podWith("ready: false, state: {running: {startedAt: x}}"), after: 90 * time.Second, want: "have the readiness probe answer",
			events: []kube.TestEvent{{UID: "p", Reason: "Unhealthy", Message: "Readiness probe failed: 503"}}, waits: "1 pod not ready: Readiness probe failed: 503"},
		{name: "readiness, failing where it is asked often", pod: podOf("{name: app, readinessProbe: {periodSeconds: 1, failureThreshold: 1}}", "ready: false, state: {running: {startedAt: x}}"),
			after: time.Minute, want: "have the readiness probe answer", events: []kube.TestEvent{{UID: "p", Reason: "Unhealthy", Message: "Readiness probe failed: 503"}}},
		{name: "readiness, not asked yet", pod: podWith("ready: false, state: {running: {startedAt: x}}"), after: never, waits: "1 pod not ready yet"},
		{name: "startup, failing", pod: podWith("ready: false, started: false, state: {running: {startedAt: x}}"), after: never, waits: "1 pod starting: Startup probe failed: 500",
			events: []kube.TestEvent{{UID: "p", Reason: "Unhealthy", Message: "Startup probe failed: 500"}}},
		{name: "startup, given up", pod: podWith("ready: false, started: false, restartCount: 1, state: {running: {startedAt: x}}, lastState: {" + crashed + "}"), after: atOnce,
			want: "have the startup probe answer", events: []kube.TestEvent{{UID: "p", Reason: "Unhealthy", Message: "Startup probe failed: 500"}}},
		{name: "no node", pod: unscheduled("0/3 nodes are available: 3 Insufficient cpu."), after: 30 * time.Second, want: "lower the containers' resources.requests"},
		{name: "no node, and one comes", pod: unscheduled("0/3 nodes are available: 3 Insufficient cpu."), after: never, want: "Insufficient cpu",
			events: []kube.TestEvent{{UID: "p", Reason: "TriggeredScaleUp", Message: "pod triggered scale-up"}}},
		{name: "no node, and one comes, to Karpenter", pod: unscheduled("0/3 nodes are available: 3 Insufficient cpu."), after: never, want: "Insufficient cpu",
			events: []kube.TestEvent{{UID: "p", Reason: "Nominated", Message: "Pod should schedule on: nodeclaim/default-x"}}},
		{name: "no node, and one is made room on", after: never, want: "Insufficient cpu", pod: strings.Replace(
			unscheduled("0/3 nodes are available: 3 Insufficient cpu."), "status: {", "status: {nominatedNodeName: node-1, ", 1)},
		{name: "no volume yet", pod: unscheduled("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."), after: 2 * time.Minute, want: "provisioner"},
		{name: "no claim", pod: unscheduled(`0/3 nodes are available: persistentvolumeclaim "x" not found.`), after: atOnce, want: "add the PersistentVolumeClaim"},
		{name: "no volume", pod: pending, after: atOnce, want: "mend the name in the pod's volumes",
			events: []kube.TestEvent{{UID: "p", Reason: "FailedMount", Message: `MountVolume.SetUp failed for volume "v" : configmap "x" not found`}}},
		{name: "a volume that takes its time", pod: pending, after: 2 * time.Minute, want: "look at the volume's own status",
			events: []kube.TestEvent{{UID: "p", Reason: "FailedMount", Message: "Unable to attach or mount volumes: timed out"}}},
		{name: "evicted", pod: "{apiVersion: v1, kind: Pod, metadata: {name: pay-1, uid: p}, status: {phase: Failed, reason: Evicted, message: disk}}", after: never, want: "Evicted"},
		{name: "quota", workload: creating("exceeded quota: small"), after: atOnce, want: "raise the quota"},
		{name: "quota, and others may leave", workload: creating("exceeded quota: small"), around: kube.Around{Older: 1}, after: 30 * time.Second, want: "raise the quota"},
		{name: "policy", workload: creating("violates PodSecurity"), after: atOnce, want: "securityContext"},
		{name: "policy, perhaps of an older revision", workload: creating("violates PodSecurity"), around: kube.Around{Unsure: true}, after: time.Minute, want: "securityContext"},
		{name: "webhook", workload: creating(`admission webhook "x" denied the request: no latest`), after: atOnce, want: "as the webhook says"},
		{name: "webhook that is away", workload: creating(`failed calling webhook "x": connection refused`), after: time.Minute, want: "does not answer"},
		{name: "StatefulSet, by its events", workload: statefulSet, after: atOnce, want: "raise the quota",
			events: []kube.TestEvent{{UID: "s", Reason: "FailedCreate", Message: "exceeded quota: small"}}},
		{name: "StatefulSet, over it", workload: statefulSet, after: never,
			events: []kube.TestEvent{{UID: "s", Reason: "FailedCreate", Message: "exceeded quota: small"}, {UID: "s", Reason: "SuccessfulCreate"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.workload == "" {
				tt.workload = plainDeployment
			}
			around := tt.around
			around.Events = tt.events
			if tt.pod != "" {
				around.Pods = append(around.Pods, object(t, tt.pod))
			}
			at := kube.Diagnose(object(t, tt.workload), around)
			d, certain, waits := at(0)
			if tt.want == "" {
				assert.Nil(t, d, "%v", d)
			} else {
				require.NotNil(t, d)
				assert.Contains(t, d.String(), tt.want)
			}
			if tt.waits != "" {
				assert.Equal(t, tt.waits, waits)
			}
			switch tt.after {
			case atOnce:
				assert.True(t, certain)
			case never:
				assert.False(t, certain)
				_, certain, _ = at(24 * time.Hour)
				assert.False(t, certain)
			default:
				assert.False(t, certain)
				_, certain, _ = at(tt.after - time.Second)
				assert.False(t, certain)
				_, certain, _ = at(tt.after)
				assert.True(t, certain)
			}
		})
	}
}

func unscheduled(message string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: pay-1, uid: p}, status: {phase: Pending, conditions: [
{type: PodScheduled, status: "False", reason: Unschedulable, message: '` + message + `'}]}}`
}

const (
	pending     = `{apiVersion: v1, kind: Pod, metadata: {name: pay-1, uid: p}, status: {phase: Pending}}`
	statefulSet = `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: pay, uid: s}, spec: {replicas: 2}}`
)

func creating(message string) string {
	return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: pay, uid: d}, spec: {replicas: 1}, status: {conditions: [
{type: ReplicaFailure, status: "True", reason: FailedCreate, message: '` + message + `'}]}}`
}

// A trouble that goes and comes back begins anew.
func TestDiagnoseBeginsAnew(t *testing.T) {
	slow := object(t, podWith("state: {waiting: {reason: ErrImagePull, message: time-out}}"))
	around := kube.Around{Pods: nil}
	around.Pods = append(around.Pods, slow)
	at := kube.Diagnose(object(t, plainDeployment), around)
	_, certain, _ := at(0)
	assert.False(t, certain)
	around.Pods[0] = object(t, podWith("state: {waiting: {reason: ContainerCreating}}"))
	_, _, _ = at(time.Minute)
	around.Pods[0] = slow
	_, certain, _ = at(3 * time.Minute)
	assert.False(t, certain)
	_, certain, _ = at(5 * time.Minute)
	assert.True(t, certain)
}

func TestDiagnosisText(t *testing.T) {
	d := kube.Diagnosis{
		Pod: "pay-1", Pods: 3, Container: "app", Reason: "CrashLoopBackOff", Message: "back-off 10s\nand more", Ended: true, ExitCode: 3, Restarts: 2,
		Event: "BackOff: Back-off restarting failed container", Log: []string{"starting", "no such host"}, Cure: "see the log",
	}
	assert.Equal(t, `  3 pods, one of them pay-1, container app: CrashLoopBackOff, exit code 3, 2 restarts
  back-off 10s
    and more
  event: BackOff: Back-off restarting failed container
  last lines of the run that failed:
    | starting
    | no such host
  see the log`, d.String())
}
