package kube

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Diagnosis is why a workload's pods do not run, or cannot even be made.
type Diagnosis struct {
	// Pod is the pod that it was seen at; empty where none could be made. Pods is how many have the same trouble.
	Pod  string
	Pods int
	// Container is the container, Init whether that is an init container; empty where it is about the pod as a whole.
	Container string
	Init      bool
	// Reason is Kubernetes' word: "CrashLoopBackOff", "ErrImagePull", "Unschedulable", "FailedCreate".
	Reason string
	// Message is what Kubernetes says to it.
	Message string
	// Ended is whether a run of the container has ended, with ExitCode: 137 is SIGKILL, also for too much memory.
	Ended    bool
	ExitCode int64
	Restarts int64
	// Event is the last event about it: "BackOff: Back-off restarting failed container". Empty where none was seen.
	Event string
	// Log is the last lines of the run that failed, LogError why they are missing.
	Log      []string
	LogError string
	// Cure is what to do about it.
	Cure string

	namespace string
	uid       types.UID // of the pod, or of what could not make one
	previous  bool      // whether the log is that of the run before
}

// String is the account for people, indented, in several lines.
func (d *Diagnosis) String() string {
	var text strings.Builder
	where := "its pods"
	if d.Pod != "" {
		where = "pod " + d.Pod
		if d.Pods > 1 {
			where = fmt.Sprintf("%d pods, one of them %s", d.Pods, d.Pod)
		}
	}
	switch {
	case d.Init:
		where += ", init container " + d.Container
	case d.Container != "":
		where += ", container " + d.Container
	}
	fmt.Fprintf(&text, "  %s: %s", where, d.Reason)
	if d.Ended {
		fmt.Fprintf(&text, ", exit code %d", d.ExitCode)
	}
	switch {
	case d.Restarts == 1:
		text.WriteString(", 1 restart")
	case d.Restarts > 1:
		fmt.Fprintf(&text, ", %d restarts", d.Restarts)
	}
	if d.Message != "" {
		fmt.Fprintf(&text, "\n  %s", indented(d.Message))
	}
	if d.Event != "" && !strings.Contains(d.Event, d.Message) || d.Message == "" && d.Event != "" {
		fmt.Fprintf(&text, "\n  event: %s", indented(d.Event))
	}
	if len(d.Log) > 0 {
		text.WriteString("\n  last lines of the run that failed:")
		for _, line := range d.Log {
			text.WriteString("\n    | " + line)
		}
	} else if d.LogError != "" {
		fmt.Fprintf(&text, "\n  its log could not be read: %s", d.LogError)
	}
	if d.Cure != "" {
		text.WriteString("\n  " + d.Cure)
	}
	return text.String()
}

func indented(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// When a trouble is certain, that is, when only another manifest, another image, or somebody's hand can end it. Only pods of the
// newest revision count that are not on their way out.
//
//	trouble                                                         certain
//	--------------------------------------------------------------  -----------------------------------------------------------
//	the image's name is invalid; it may never be pulled and is      at once
//	not on the node
//	the registry says that there is no such image, or refuses       at once
//	the login
//	the image cannot be pulled for another reason: a time-out,      after two minutes: registries recover
//	a server's error, a name that does not resolve
//	a ConfigMap, a Secret, a key or a service account is missing    at once, since configuration is applied before workloads;
//	                                                                after 30 seconds where the release has objects of other
//	                                                                groups than Kubernetes' own, whose operators may make it,
//	                                                                and for what every new namespace gets a moment later
//	the program cannot be started: it is not there, not executable, at once
//	or for another platform
//	the container cannot be made for another reason                 after a minute
//	the container ends, by itself or by its probes                  at the third run that ends, some twelve seconds after the
//	                                                                first began, so that a proxy beside it may come up, not
//	                                                                counting what was over long before anybody looked; at the
//	                                                                fifth while other workloads of the release are not ready,
//	                                                                which it may need, and where its runs last over a minute
//	the container ends for too much memory                          at the second run: waiting gives it no more
//	its startup probe has failed for as long as it may              at once: when the kubelet ends the container
//	its readiness probe fails                                       after a minute, or three times its threshold, whichever is
//	                                                                longer: services warm up
//	no node takes the pod                                           after 30 seconds, since nodes become free; after two minutes
//	                                                                for a volume that is to be made; not where an autoscaler has
//	                                                                said that a node comes, or the scheduler makes room on one
//	no pod may be made: admission, a policy, a limit                at once; after a minute while it is not known of which
//	                                                                revision's pods it is said
//	no pod may be made: quota                                       at once; after 30 seconds while other pods of the workload
//	                                                                are there, which may leave
//	a webhook of the API server does not answer                     after a minute
//	a volume cannot be mounted for another reason                   after two minutes
//	the pod is evicted, preempted, or its node is lost              never: its controller makes another one
//
// The progress deadline of a Deployment, the back-off limit of a Job and the timeout of the wait end it in any case.
const (
	atOnceGrace    = 0
	operatorGrace  = 30 * time.Second
	scheduleGrace  = 30 * time.Second
	quotaGrace     = 30 * time.Second
	creationGrace  = time.Minute
	webhookGrace   = time.Minute
	readinessGrace = time.Minute
	pullGrace      = 2 * time.Minute
	mountGrace     = 2 * time.Minute
	never          = time.Duration(math.MaxInt64)

	certainRuns = 3
	patientRuns = 5
	memoryRuns  = 2
	longRun     = time.Minute
	// calmRun is the run after which the kubelet forgets the crashes before it.
	calmRun = 10 * time.Minute
)

// scene is what is known around a workload.
type scene struct {
	workload live
	// pods are those of the newest revision that stay; older is how many others there are.
	pods  []live
	older int
	// events are those about an object, the oldest first.
	events func(types.UID) []event
	// makers are the objects that make the pods: the workload, or its newest ReplicaSet.
	makers []types.UID
	// refused is whose condition says that pods could not be made: the newest ReplicaSet where there is one, since a Deployment repeats
	// what was said of an older one; unsure is whether it may be about an older one.
	refused live
	unsure  bool
	memory
	now time.Time
	// operators is whether the release has objects that may make what is missing, busy whether other workloads of it are not ready.
	operators, busy bool
}

// memory is what is kept of a workload from one look to the next.
type memory struct {
	// since is when each trouble was first seen. Those that are gone are taken out, new ones are put in.
	since map[string]time.Time
	// past is how many runs of each container had ended when it was first seen that have nothing to do with what is seen now.
	past map[string]int64
}

func newMemory() memory { return memory{make(map[string]time.Time), make(map[string]int64)} }

func pastKey(pod types.UID, c container) string { return string(pod) + " " + c.spec.text("name") }

// recentRuns is how many runs of a container have ended, without those of its past.
func (m memory) recentRuns(pod types.UID, c container) int64 {
	return c.runs() - m.past[pastKey(pod, c)]
}

// event is what an Event says.
type event struct{ reason, message string }

func (e event) String() string {
	if e.reason == "" {
		return ""
	}
	return e.reason + ": " + strings.TrimSpace(e.message)
}

// trouble is a diagnosis, and how long it has to last to be certain.
type trouble struct {
	*Diagnosis
	after time.Duration
}

// verdict is what follows from a scene.
type verdict struct {
	// worst is the trouble that is certain, or the one nearest to that; nil where there is none.
	worst   *Diagnosis
	certain bool
	// waits is what the pods wait for, in a few words.
	waits string
}

// diagnose judges a scene by itself.
func diagnose(s scene) verdict {
	var found []trouble
	if t, ok := s.creation(); ok {
		found = append(found, t)
	}
	states := make(map[string]int)
	for _, pod := range s.pods {
		t, state := s.pod(pod)
		if t.Diagnosis != nil {
			found = append(found, t)
		}
		if state != "" {
			states[state]++
		}
	}
	seen := make(map[string]bool)
	var v verdict
	rest := time.Duration(math.MaxInt64)
	for _, t := range found {
		key := string(t.uid) + " " + t.Container + " " + t.Reason
		if _, ok := s.since[key]; !ok {
			s.since[key] = s.now
		}
		seen[key] = true
		left := t.after
		if left != never {
			left -= s.now.Sub(s.since[key])
		}
		if v.worst == nil || left < rest {
			v.worst, rest = t.Diagnosis, left
		}
	}
	for key := range s.since {
		if !seen[key] {
			delete(s.since, key)
		}
	}
	v.certain = v.worst != nil && rest <= 0
	if v.worst != nil {
		for _, t := range found {
			if t.Reason == v.worst.Reason && t.Container == v.worst.Container {
				v.worst.Pods++
			}
		}
	}
	var waits []string
	for state, n := range states {
		if n == 1 {
			waits = append(waits, "1 pod "+state)
		} else {
			waits = append(waits, fmt.Sprintf("%d pods %s", n, state))
		}
	}
	slices.Sort(waits)
	v.waits = strings.Join(waits, ", ")
	return v
}

// creation finds out why pods are not made.
func (s scene) creation() (trouble, bool) {
	d := &Diagnosis{Reason: "FailedCreate", namespace: s.workload.GetNamespace(), uid: s.workload.GetUID()}
	if c, ok := s.refused.isTrue("ReplicaFailure"); ok {
		d.Reason, d.Message = cmp.Or(c.reason, d.Reason), c.message
	} else {
		// Those of a StatefulSet or Job stay after the trouble is over: what is there counts too.
		want := s.workload.replicas()
		if _, ok := s.workload.number("spec", "replicas"); !ok && s.workload.GetKind() == "DaemonSet" {
			want = s.workload.count("desiredNumberScheduled")
		}
		if int64(len(s.pods)) >= want {
			return trouble{}, false
		}
		for _, maker := range s.makers {
			for _, e := range s.events(maker) {
				switch e.reason {
				case "FailedCreate":
					d.Message = e.message
				case "SuccessfulCreate":
					d.Message = ""
				}
			}
		}
		if d.Message == "" {
			return trouble{}, false
		}
	}
	t := trouble{Diagnosis: d, after: atOnceGrace}
	text := d.Message
	switch {
	case strings.Contains(text, "exceeded quota"), strings.Contains(text, "failed quota"):
		d.Cure = "raise the quota, lower what the pods ask for, or have others leave"
		if s.older > 0 {
			t.after = quotaGrace
		}
	case strings.Contains(text, "failed calling webhook"):
		t.after = webhookGrace
		d.Cure = "look at the webhook's own pods, or at its configuration: it does not answer"
	case strings.Contains(text, "violates PodSecurity"):
		d.Cure = "set in the pod's securityContext what it names, or relax the namespace's label pod-security.kubernetes.io/enforce"
	case strings.Contains(text, "error looking up service account"), strings.Contains(text, "serviceaccount") && strings.Contains(text, "not found"):
		t.after = s.missing()
		if strings.Contains(text, `"default" not found`) {
			t.after = operatorGrace // every new namespace gets it a moment later
		}
		d.Cure = "add the ServiceAccount to the manifests, or mend serviceAccountName"
	case strings.Contains(text, "denied the request"):
		d.Cure = "mend the manifest as the webhook says"
	case strings.Contains(text, "is forbidden"), strings.Contains(text, "is invalid"):
		d.Cure = "mend the pod's template in the manifest"
	default:
		t.after = creationGrace
	}
	if s.unsure {
		t.after = max(t.after, creationGrace)
	}
	return t, true
}

// missing is the grace for what others may still make.
func (s scene) missing() time.Duration {
	if s.operators {
		return operatorGrace
	}
	return atOnceGrace
}

// pod finds a pod's trouble, and says in a few words what it waits for; nothing where it is ready.
func (s scene) pod(pod live) (trouble, string) {
	containers := pod.containers()
	for _, c := range containers {
		key := pastKey(pod.GetUID(), c)
		if _, seen := s.past[key]; !seen {
			s.past[key] = c.pastRuns(s.now)
		}
	}
	if _, ready := pod.isTrue("Ready"); ready {
		return trouble{}, ""
	}
	d := &Diagnosis{Pod: pod.GetName(), namespace: pod.GetNamespace(), uid: pod.GetUID(), Reason: pod.text("status", "reason")}
	switch phase := pod.text("status", "phase"); {
	case phase == "Failed" && s.workload.GetKind() != "Job":
		d.Reason, d.Message = cmp.Or(d.Reason, "Failed"), pod.text("status", "message")
		return trouble{d, never}, "failed"
	case phase == "Succeeded":
		return trouble{}, ""
	}
	if c, ok := pod.condition("PodScheduled"); ok && c.status == "False" {
		return s.unschedulable(d, pod, c)
	}
	for _, c := range containers {
		if t, state, waits := s.container(*d, pod, c); waits {
			return t, state
		}
	}
	return s.mounts(d, pod)
}

// containers are those of a pod that have a status, the init containers first.
func (o live) containers() (all []container) {
	for _, init := range []bool{true, false} {
		kind := "container"
		if init {
			kind = "initContainer"
		}
		specs, _, _ := unstructured.NestedSlice(o.Object, "spec", kind+"s")
		statuses, _, _ := unstructured.NestedSlice(o.Object, "status", kind+"Statuses")
		for _, item := range specs {
			spec, _ := item.(map[string]any)
			i := findKeyed(statuses, map[string]any{"name": spec["name"]})
			if i < 0 {
				continue
			}
			status, _ := statuses[i].(map[string]any)
			all = append(all, container{live{&unstructured.Unstructured{Object: spec}}, live{&unstructured.Unstructured{Object: status}}, init})
		}
	}
	return all
}

// mounts is the trouble of a pod whose containers have none of their own.
func (s scene) mounts(d *Diagnosis, pod live) (trouble, string) {
	if pod.text("status", "phase") != "Pending" {
		return trouble{}, "not ready"
	}
	for _, e := range slices.Backward(s.events(pod.GetUID())) {
		switch e.reason {
		case "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady":
			d.Reason, d.Message, d.Event = e.reason, e.message, e.String()
			d.Cure = "look at the volume's own status, and at the node"
			t := trouble{d, mountGrace}
			if isMissingReference(e.message) && !strings.Contains(e.message, `"kube-root-ca.crt"`) { // which every new namespace gets a moment later
				t.after, d.Cure = s.missing(), "add it to the manifests, or mend the name in the pod's volumes"
			}
			return t, "waiting for volumes"
		case "Pulling":
			return trouble{}, "pulling images"
		case "Pulled", "Created", "Started":
			return trouble{}, "starting"
		}
	}
	return trouble{}, "starting"
}

// isMissingReference reports whether something that a pod refers to is not there.
func isMissingReference(message string) bool {
	text := strings.ToLower(message)
	for _, kind := range []string{"configmap", "secret"} {
		if strings.Contains(text, kind) && (strings.Contains(text, "not found") || strings.Contains(text, "non-existent") || strings.Contains(text, "couldn't find key")) {
			return true
		}
	}
	return strings.Contains(text, "references non-existent") || strings.Contains(text, "couldn't find key")
}

// container is a container's specification and status.
type container struct {
	spec, status live
	init         bool
}

// runs is how many runs of a container have ended.
func (c container) runs() int64 {
	restarts, _ := c.status.number("restartCount")
	_, ended := c.ended("state")
	_, endedBefore := c.ended("lastState")
	if ended || endedBefore && (restarts == 0 || c.status.text("state", "waiting", "reason") == "CrashLoopBackOff") {
		return restarts + 1 // the one that begins next is not counted yet
	}
	return restarts
}

// pastRuns is how many of them have nothing to do with how the container is when it is first seen: a pod that was there before the
// deployment may have crashed now and then since it was made.
func (c container) pastRuns(now time.Time) int64 {
	began, err := time.Parse(time.RFC3339, c.status.text("state", "running", "startedAt"))
	if c.status.flag("ready") || err == nil && now.Sub(began) > longRun {
		return c.runs()
	}
	last, ok := c.ended("state")
	if !ok {
		last, _ = c.ended("lastState")
	}
	if last.lasted > calmRun {
		return max(c.runs()-1, 0)
	}
	return 0
}

// run is a run of a container that has ended.
type run struct {
	reason, message string
	exitCode        int64
	lasted          time.Duration
}

func (c container) ended(state string) (run, bool) {
	ended, ok, _ := unstructured.NestedMap(c.status.Object, state, "terminated")
	if !ok {
		return run{}, false
	}
	l := live{&unstructured.Unstructured{Object: ended}}
	r := run{reason: l.text("reason"), message: l.text("message")}
	r.exitCode, _ = l.number("exitCode")
	began, err1 := time.Parse(time.RFC3339, l.text("startedAt"))
	end, err2 := time.Parse(time.RFC3339, l.text("finishedAt"))
	if err1 == nil && err2 == nil {
		r.lasted = end.Sub(began)
	}
	return r, true
}

// container finds a container's trouble; waits is whether the pod waits for this one at all.
func (s scene) container(d Diagnosis, pod live, c container) (t trouble, state string, waits bool) {
	name := c.spec.text("name")
	d.Container, d.Init = name, c.init && c.spec.text("restartPolicy") != "Always"
	d.Restarts, _ = c.status.number("restartCount")
	reason, message := c.status.text("state", "waiting", "reason"), c.status.text("state", "waiting", "message")
	now, ended := c.ended("state")
	last, endedBefore := c.ended("lastState")
	if ended && d.Init && now.exitCode == 0 {
		return trouble{}, "", false // done
	}
	if ended || endedBefore {
		d.Ended, d.previous = true, !ended
		if !ended {
			now = last
		}
		d.ExitCode = now.exitCode
	}
	d.Reason, d.Message = cmp.Or(reason, now.reason), message
	switch reason {
	case "InvalidImageName", "ErrImageNeverPull":
		d.Cure = "mend the image's name in the manifest: " + c.spec.text("image")
		return trouble{&d, atOnceGrace}, "cannot have the image", true
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError":
		return s.pull(&d, pod, c), "cannot pull the image", true
	case "CreateContainerConfigError":
		d.Cure = "add it to the manifests, or mend the reference in the container's env or envFrom"
		after := creationGrace
		if isMissingReference(message) {
			after = s.missing()
		} else if strings.Contains(message, "runAsNonRoot") {
			after = atOnceGrace
			d.Cure = "give the image a numeric user that is not root, or set securityContext.runAsUser"
		}
		return trouble{&d, after}, "cannot be configured", true
	case "CreateContainerError", "RunContainerError":
		return trouble{&d, startGrace(&d)}, "cannot be started", true
	case "", "CrashLoopBackOff":
	default: // ContainerCreating, PodInitializing: the pod's events say more
		return trouble{}, "", false
	}
	if s.workload.GetKind() == "Job" {
		if !d.Ended || d.ExitCode == 0 {
			return trouble{}, "running", !d.Ended
		}
		t := s.crash(&d, pod, c, now)
		t.after = never // the Job counts its failures
		return t, "failed with exit code " + strconv.FormatInt(d.ExitCode, 10), true
	}
	running := c.status.text("state", "running", "startedAt") != ""
	if !running && (now.reason == "StartError" || now.reason == "ContainerCannotRun") {
		d.Reason = now.reason
		d.Message = now.message
		if grace := startGrace(&d); grace == atOnceGrace {
			return trouble{&d, grace}, "cannot be started", true
		}
	}
	if d.previous && s.recentRuns(d.uid, c) >= s.enough(now) && !c.status.flag("ready") || ended || reason == "CrashLoopBackOff" {
		return s.crash(&d, pod, c, now), "restarting after exit code " + strconv.FormatInt(d.ExitCode, 10), true
	}
	return s.probes(&d, pod, c)
}

// startGrace says how long what keeps a program from starting has to last, and puts in the cure.
func startGrace(d *Diagnosis) time.Duration {
	for _, known := range []struct{ says, cure string }{
		{"exec format error", "build the image for the platform of the nodes"},
		{"executable file not found", "mend the container's command, or put the program into the image's PATH"},
		{"no such file or directory", "mend the container's command or the image's entry point: the program, or what it is linked with, is not in the image"},
		{"permission denied", "make the program executable, for the user that the container runs as"},
		{"is a directory", "mend the container's command: it names a folder"},
		{"no command specified", "give the container a command, or the image an entry point"},
	} {
		if strings.Contains(d.Message, known.says) {
			d.Cure = known.cure
			return atOnceGrace
		}
	}
	d.Cure = "look at the node that the pod is on"
	return creationGrace
}

// pull judges why an image is not there. What the registry said is in the state at first, and then in the event.
func (s scene) pull(d *Diagnosis, pod live, c container) trouble {
	image := c.spec.text("image")
	said := d.Message
	for _, e := range s.events(pod.GetUID()) {
		if e.reason == "Failed" && strings.Contains(e.message, image) && strings.Contains(e.message, "pull image") {
			d.Event, said = e.String(), said+" "+e.message
		}
	}
	text := strings.ToLower(said)
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case has("unauthorized", "authentication required", "access denied", "denied: ", "403 forbidden", "401 ", "insufficient_scope", "no basic auth credentials"):
		d.Cure = "give the service account an imagePullSecret with a login that may pull " + image + ", and see that there is such an image"
		return trouble{d, atOnceGrace}
	case has("not found", "manifest unknown", "name unknown", "does not exist", "no match for platform", "no matching manifest"):
		d.Cure = "push the image, or mend its name in the manifest: " + image
		return trouble{d, atOnceGrace}
	}
	d.Cure = "see whether the nodes can reach the registry of " + image
	return trouble{d, pullGrace}
}

// crash judges a container whose run has ended.
func (s scene) crash(d *Diagnosis, pod live, c container, last run) trouble {
	if last.message != "" {
		d.Message = last.message // what the program left in its termination log
	}
	limit := c.spec.text("resources", "limits", "memory")
	switch {
	case last.reason == "OOMKilled":
		d.Reason = "OOMKilled"
		d.Cure = "raise the container's resources.limits.memory"
		if limit != "" {
			d.Cure += ", which is " + limit
		}
		d.Cure += ", or have it use less"
	case last.exitCode == 0 && !d.Init:
		d.Cure = "the program ends by itself and without an error; a " + s.workload.GetKind() + "'s has to go on, only a Job's may end"
	default:
		d.Cure = "see the log, and run the image with the same environment"
	}
	for _, e := range slices.Backward(s.events(pod.GetUID())) {
		if e.reason == "Killing" && strings.Contains(e.message, c.spec.text("name")+" failed") {
			d.Event = e.String()
			d.Cure = "have its probe answer, or let it fail longer: periodSeconds times failureThreshold"
			break
		}
	}
	for _, e := range s.events(pod.GetUID()) {
		if e.reason == "Unhealthy" && strings.Contains(e.message, "Startup probe failed") && !c.status.flag("started") {
			d.Reason, d.Message, d.Event = "Unhealthy", e.message, e.String()
			d.Cure = "have the startup probe answer, or let it fail longer: periodSeconds times failureThreshold"
			return trouble{d, atOnceGrace}
		}
	}
	if s.recentRuns(d.uid, c) < s.enough(last) {
		return trouble{d, never}
	}
	return trouble{d, atOnceGrace}
}

// enough is how many runs have to have ended, the last one as it did.
func (s scene) enough(last run) int64 {
	switch {
	case last.reason == "OOMKilled":
		return memoryRuns
	case last.lasted > longRun, s.busy:
		return patientRuns
	default:
		return certainRuns
	}
}

// probes judges a container that runs and is not ready.
func (s scene) probes(d *Diagnosis, pod live, c container) (trouble, string, bool) {
	if c.status.text("state", "running", "startedAt") == "" || c.status.flag("ready") {
		return trouble{}, "", false
	}
	for _, e := range slices.Backward(s.events(pod.GetUID())) {
		if e.reason != "Unhealthy" {
			continue
		}
		switch {
		case strings.Contains(e.message, "Readiness probe"):
			d.Reason, d.Message, d.Event, d.previous = "Unhealthy", e.message, e.String(), false
			d.Cure = "have the readiness probe answer; it may need something that is not there"
			return trouble{d, readinessLimit(c)}, "not ready: " + short(e.message), true
		case strings.Contains(e.message, "Startup probe"):
			if d.Restarts > 0 && !c.status.flag("started") {
				return s.crash(d, pod, c, run{}), "starting again", true
			}
			return trouble{}, "starting: " + short(e.message), true
		}
	}
	if d.Init {
		return trouble{}, "in its init container " + d.Container, true
	}
	return trouble{}, "not ready yet", true
}

// readinessLimit is how long a readiness probe may fail.
func readinessLimit(c container) time.Duration {
	number := func(field string, or int64) int64 {
		if n, ok := c.spec.number("readinessProbe", field); ok && n > 0 {
			return n
		}
		return or
	}
	const threshold, period = 3, 10 // Kubernetes' defaults
	limit := time.Duration(number("initialDelaySeconds", 0)+3*number("failureThreshold", threshold)*number("periodSeconds", period)) * time.Second
	return max(limit, readinessGrace)
}

// short is the first line of a text, and not too much of it.
func short(text string) string {
	const most = 80
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// unschedulable judges a pod that has no node.
func (s scene) unschedulable(d *Diagnosis, pod live, c condition) (trouble, string) {
	d.Reason, d.Message = cmp.Or(c.reason, "Unschedulable"), c.message
	t := trouble{d, scheduleGrace}
	for _, e := range s.events(pod.GetUID()) {
		if e.reason == "TriggeredScaleUp" || e.reason == "Nominated" { // of the cluster autoscaler, and of Karpenter
			t.after = never
		}
	}
	if c.reason == "SchedulingGated" || pod.text("status", "nominatedNodeName") != "" {
		t.after = never
	}
	has := func(part string) bool { return strings.Contains(c.message, part) }
	switch {
	case has("persistentvolumeclaim") && has("not found"):
		t.after = s.missing()
		d.Cure = "add the PersistentVolumeClaim to the manifests, or mend its name in the pod's volumes"
	case has("unbound immediate PersistentVolumeClaims"):
		t.after = max(t.after, mountGrace)
		d.Cure = "see why the volume is not bound: its storage class, and the provisioner's own log"
	case has("didn't match Pod's node affinity/selector"):
		d.Cure = "label a node so, or mend the pod's nodeSelector and affinity"
	case has("untolerated taint"):
		d.Cure = "let the pod tolerate the taint, or add nodes without it"
	case has("Insufficient"):
		d.Cure = "lower the containers' resources.requests, or add nodes"
	default:
		d.Cure = "see what `kubectl describe nodes` says"
	}
	return t, "without a node: " + short(c.message)
}
