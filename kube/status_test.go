package kube_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/grimoire-build/grimoire/kube"
)

func TestStatus(t *testing.T) {
	const (
		deployment  = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: pay, generation: 3}\n"
		statefulSet = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: pay, generation: 3}\n"
		daemonSet   = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: pay, generation: 3}\n"
		replicaSet  = "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: pay, generation: 3}\n"
		job         = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: pay}\n"
		pod         = "apiVersion: v1\nkind: Pod\nmetadata: {name: pay}\n"
		custom      = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: pay, generation: 3}\n"
		definition  = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: pay}\n"
	)
	tests := []struct {
		name, object string
		state        kube.State
		message      string
	}{
		{"cron job", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: pay}\n", kube.Current, "it has not started a Job yet"},
		{"cron job that ran", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: pay}\nstatus: {lastScheduleTime: noon}", kube.Current, "it last started a Job at noon"},
		{"cron job suspended", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: pay}\nspec: {suspend: true}", kube.Current, "suspended: it starts no Job until spec.suspend is false"},
		{"service", "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {type: ClusterIP}", kube.Current, "there is nothing to wait for"},
		{"service without its load balancer", "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {}}", kube.InProgress,
			"it has no address yet; a controller of the cluster has to give it one"},
		{"service with its load balancer", "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{hostname: lb.example.org}]}}",
			kube.Current, "at lb.example.org"},
		{"ingress", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: pay}\n", kube.InProgress, "it has no address yet; a controller of the cluster has to give it one"},
		{"ingress with an address", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: pay}\nstatus: {loadBalancer: {ingress: [{ip: 10.0.0.1}]}}", kube.Current, "at 10.0.0.1"},
		{"claim", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: pay}\nstatus: {phase: Pending}", kube.InProgress, "not bound yet; it may wait for the first pod that uses it"},
		{"claim bound", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: pay}\nspec: {volumeName: v}\nstatus: {phase: Bound}", kube.Current, "bound to v"},
		{"claim lost", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: pay}\nspec: {volumeName: v}\nstatus: {phase: Lost}", kube.Failed, "its volume v is lost"},
		{"namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: pay}\nstatus: {phase: Active}", kube.Current, "active"},
		{"namespace that goes", "apiVersion: v1\nkind: Namespace\nmetadata: {name: pay}\nstatus: {phase: Terminating}", kube.InProgress, "being deleted"},
		{"autoscaler that cannot scale", "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: pay}\nstatus: {conditions: [{type: ScalingActive, status: \"False\"}]}",
			kube.Current, "there is nothing to wait for"},
		{"custom, condition of an older specification", custom + "status: {conditions: [{type: Ready, status: \"False\", observedGeneration: 2}]}", kube.InProgress,
			"the controller has seen generation 2, not yet 3"},
		{"custom, ready for an older specification", custom + "status: {conditions: [{type: Ready, status: \"True\", observedGeneration: 2}]}", kube.InProgress,
			"the controller has seen generation 2, not yet 3"},
		{"custom, another condition of an older specification", custom + "status: {conditions: [{type: Stalled, status: \"True\", observedGeneration: 2}]}", kube.Current,
			"there is nothing to wait for"},
		{"custom, condition of this specification", custom + "status: {conditions: [{type: Ready, status: \"False\", observedGeneration: 3, reason: Slow}]}", kube.InProgress,
			"not Ready: Slow"},
		{"deployment not seen", deployment, kube.InProgress, "the controller has not seen it yet"},
		{"deployment seen before the change", deployment + "spec: {replicas: 2}\nstatus: {observedGeneration: 2, replicas: 2, " +
			"updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2}", kube.InProgress, "the controller has seen generation 2, not yet 3"},
		{"deployment failed before the change", deployment + "status: {observedGeneration: 2, conditions: [{type: Progressing, " +
			"status: \"False\", reason: ProgressDeadlineExceeded}]}", kube.InProgress, "the controller has seen generation 2, not yet 3"},
		{"deployment not updated", deployment + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 4, updatedReplicas: 1, " +
			"availableReplicas: 3}", kube.InProgress, "1 of 3 replicas updated"},
		{"deployment without pods", deployment + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, conditions: [{type: ReplicaFailure, " +
			"status: \"True\", reason: FailedCreate, message: exceeded quota}]}", kube.InProgress, "0 of 3 replicas updated; FailedCreate: exceeded quota"},
		{"deployment with old ones", deployment + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 5, updatedReplicas: 3, " +
			"availableReplicas: 5}", kube.InProgress, "2 old replicas are still there"},
		{"deployment not available", deployment + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 3, updatedReplicas: 3, " +
			"readyReplicas: 2, availableReplicas: 1}", kube.InProgress, "1 of 3 replicas available, 2 ready"},
		{"deployment scaled down", deployment + "spec: {replicas: 1}\nstatus: {observedGeneration: 3, replicas: 2, updatedReplicas: 2, " +
			"availableReplicas: 2}", kube.InProgress, "1 replicas too many are still there"},
		{"deployment current", deployment + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 3, updatedReplicas: 3, " +
			"readyReplicas: 3, availableReplicas: 3, conditions: [{type: Progressing, status: \"True\", reason: NewReplicaSetAvailable}]}",
			kube.Current, "3 replicas available"},
		{"deployment of one unless stated", deployment + "status: {observedGeneration: 3}", kube.InProgress, "0 of 1 replicas updated"},
		{"deployment past its deadline", deployment + "spec: {replicas: 1}\nstatus: {observedGeneration: 3, replicas: 1, updatedReplicas: 1, " +
			"conditions: [{type: Available, status: \"False\"}, {type: Progressing, status: \"False\", reason: ProgressDeadlineExceeded, " +
			"message: has timed out progressing}]}", kube.Failed, "ProgressDeadlineExceeded: has timed out progressing"},
		{"deployment past its deadline without pods", deployment + "spec: {replicas: 1}\nstatus: {observedGeneration: 3, conditions: [" +
			"{type: Progressing, status: \"False\", reason: ProgressDeadlineExceeded, message: timed out}, " +
			"{type: ReplicaFailure, status: \"True\", reason: FailedCreate, message: exceeded quota}]}", kube.Failed,
			"ProgressDeadlineExceeded: timed out; FailedCreate: exceeded quota"},
		{"deployment paused in the middle", deployment + "spec: {replicas: 2, paused: true}\nstatus: {observedGeneration: 3, replicas: 2, " +
			"updatedReplicas: 0, availableReplicas: 2}", kube.Failed,
			"paused with 0 of 2 replicas updated; resume it with `kubectl rollout resume deployment/pay`"},
		{"deployment paused when done", deployment + "spec: {replicas: 2, paused: true}\nstatus: {observedGeneration: 3, replicas: 2, " +
			"updatedReplicas: 2, availableReplicas: 2}", kube.Current, "paused, with all 2 replicas of the newest revision"},
		{"deployment of none", deployment + "spec: {replicas: 0}\nstatus: {observedGeneration: 3}", kube.Current, "scaled to zero: nothing runs"},
		{"deployment to be none", deployment + "spec: {replicas: 0}\nstatus: {observedGeneration: 3, replicas: 2}", kube.InProgress,
			"2 old replicas are still there"},
		{"deployment being deleted", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: pay, deletionTimestamp: \"2020-01-01T00:00:00Z\"}\n",
			kube.InProgress, "being deleted"},

		{"stateful set not updated", statefulSet + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 3, readyReplicas: 3, " +
			"updatedReplicas: 1}", kube.InProgress, "1 of 3 replicas updated"},
		{"stateful set not ready", statefulSet + "spec: {replicas: 3}\nstatus: {observedGeneration: 3, replicas: 3, readyReplicas: 2, " +
			"updatedReplicas: 3}", kube.InProgress, "2 of 3 replicas available, 2 ready"},
		{"stateful set not ready for long enough", statefulSet + "spec: {replicas: 3, minReadySeconds: 5}\nstatus: {observedGeneration: 3, " +
			"replicas: 3, readyReplicas: 3, availableReplicas: 1, updatedReplicas: 3}", kube.InProgress, "1 of 3 replicas available, 3 ready"},
		{"stateful set still on the old revision", statefulSet + "spec: {replicas: 1}\nstatus: {observedGeneration: 3, replicas: 1, " +
			"readyReplicas: 1, updatedReplicas: 1, currentRevision: a, updateRevision: b}", kube.InProgress,
			"1 of 1 replicas updated, the old revision is still the current one"},
		{"stateful set current", statefulSet + "spec: {replicas: 2}\nstatus: {observedGeneration: 3, replicas: 2, readyReplicas: 2, " +
			"updatedReplicas: 2, currentRevision: b, updateRevision: b}", kube.Current, "2 replicas available"},
		{"stateful set with a partition", statefulSet + "spec: {replicas: 3, updateStrategy: {rollingUpdate: {partition: 2}}}\n" +
			"status: {observedGeneration: 3, replicas: 3, readyReplicas: 3, updatedReplicas: 1, currentRevision: a, updateRevision: b}",
			kube.Current, "3 replicas available; those from number 2 on are updated (partition)"},
		{"stateful set behind its partition", statefulSet + "spec: {replicas: 3, updateStrategy: {rollingUpdate: {partition: 1}}}\n" +
			"status: {observedGeneration: 3, replicas: 3, readyReplicas: 3, updatedReplicas: 1}", kube.InProgress, "1 of 2 replicas updated"},
		{"stateful set on delete", statefulSet + "spec: {replicas: 1, updateStrategy: {type: OnDelete}}\nstatus: {observedGeneration: 3, " +
			"replicas: 1, readyReplicas: 1, currentRevision: a, updateRevision: b}", kube.Current,
			"1 replicas available; each gets the newest revision when it is deleted (OnDelete)"},
		{"stateful set scaled down", statefulSet + "spec: {replicas: 1}\nstatus: {observedGeneration: 3, replicas: 2, readyReplicas: 2, " +
			"updatedReplicas: 2}", kube.InProgress, "1 replicas too many are still there"},
		{"stateful set of none", statefulSet + "spec: {replicas: 0}\nstatus: {observedGeneration: 3}", kube.Current, "scaled to zero: nothing runs"},

		{"daemon set not updated", daemonSet + "status: {observedGeneration: 3, desiredNumberScheduled: 4, updatedNumberScheduled: 1, " +
			"numberAvailable: 4}", kube.InProgress, "1 of 4 nodes updated"},
		{"daemon set not available", daemonSet + "status: {observedGeneration: 3, desiredNumberScheduled: 4, updatedNumberScheduled: 4, " +
			"numberReady: 3, numberAvailable: 2}", kube.InProgress, "available on 2 of 4 nodes, ready on 3"},
		{"daemon set current", daemonSet + "status: {observedGeneration: 3, desiredNumberScheduled: 4, updatedNumberScheduled: 4, " +
			"numberAvailable: 4}", kube.Current, "available on 4 nodes"},
		{"daemon set for no node", daemonSet + "status: {observedGeneration: 3}", kube.Current, "no node is to run it"},
		{"daemon set on delete", daemonSet + "spec: {updateStrategy: {type: OnDelete}}\nstatus: {observedGeneration: 3, " +
			"desiredNumberScheduled: 2, updatedNumberScheduled: 1, numberAvailable: 2}", kube.Current,
			"available on 2 nodes; each gets the newest revision when its pod is deleted (OnDelete)"},

		{"replica set not available", replicaSet + "spec: {replicas: 2}\nstatus: {observedGeneration: 3, replicas: 2, availableReplicas: 1}",
			kube.InProgress, "1 of 2 replicas available"},
		{"replica set current", replicaSet + "spec: {replicas: 2}\nstatus: {observedGeneration: 3, replicas: 2, availableReplicas: 2}",
			kube.Current, "2 replicas available"},

		{"job not started", job, kube.InProgress, "not started yet"},
		{"job running", job + "spec: {completions: 3}\nstatus: {startTime: x, active: 1, succeeded: 1, failed: 2}", kube.InProgress,
			"1 of 3 pods succeeded, 1 running, 2 failed"},
		{"job complete", job + "status: {conditions: [{type: SuccessCriteriaMet, status: \"True\"}, {type: Complete, status: \"True\"}]}",
			kube.Current, "complete"},
		{"job failed", job + "status: {conditions: [{type: Failed, status: \"True\", reason: BackoffLimitExceeded, message: too often}]}",
			kube.Failed, "BackoffLimitExceeded: too often"},
		{"job about to fail", job + "status: {conditions: [{type: FailureTarget, status: \"True\", reason: DeadlineExceeded}]}",
			kube.Failed, "DeadlineExceeded"},
		{"job suspended", job + "spec: {suspend: true}\nstatus: {conditions: [{type: Suspended, status: \"True\"}]}", kube.Current,
			"suspended: it does not run until spec.suspend is false"},

		{"pod new", pod, kube.InProgress, "not ready yet"},
		{"pod ready", pod + "status: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", kube.Current, "ready"},
		{"pod succeeded", pod + "status: {phase: Succeeded}", kube.Current, "succeeded"},
		{"pod failed", pod + "status: {phase: Failed, reason: Evicted, message: low on memory}", kube.Failed, "Evicted: low on memory"},
		{"pod cannot be placed", pod + "status: {phase: Pending, conditions: [{type: PodScheduled, status: \"False\", reason: Unschedulable, " +
			"message: 0/1 nodes}]}", kube.InProgress, "Unschedulable: 0/1 nodes"},
		{"pod without its image yet", pod + "status: {phase: Pending, containerStatuses: [{name: a, state: {running: {}}}, {name: b, state: " +
			"{waiting: {reason: ErrImagePull, message: timeout}}}]}", kube.InProgress, "container b: ErrImagePull: timeout"},
		{"pod in a crash loop", pod + "status: {phase: Running, initContainerStatuses: [{name: i, state: {waiting: {reason: CrashLoopBackOff}}}]}",
			kube.Failed, "container i: CrashLoopBackOff"},
		{"pod being made", pod + "status: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}], " +
			"conditions: [{type: Ready, status: \"False\", reason: ContainersNotReady}]}", kube.InProgress, "ContainersNotReady"},

		{"anything", custom, kube.Current, "there is nothing to wait for"},
		{"anything not seen", custom + "status: {observedGeneration: 2, conditions: [{type: Ready, status: \"True\"}]}", kube.InProgress,
			"the controller has seen generation 2, not yet 3"},
		{"anything not ready", custom + "status: {conditions: [{type: Ready, status: Unknown, reason: Issuing}]}", kube.InProgress, "not Ready: Issuing"},
		{"anything not available", custom + "status: {conditions: [{type: Available, status: \"False\"}]}", kube.InProgress,
			"not Available: no reason given"},
		{"anything ready", custom + "status: {conditions: [{type: Ready, status: \"True\"}]}", kube.Current, "there is nothing to wait for"},
		{"anything stalled", custom + "status: {conditions: [{type: Stalled, status: \"True\", message: bad chart}]}", kube.Failed, "bad chart"},
		{"anything reconciling", custom + "status: {conditions: [{type: Reconciling, status: \"True\", message: working}]}", kube.InProgress, "working"},
		{"definition new", definition, kube.InProgress, "not established yet"},
		{"definition established", definition + "status: {conditions: [{type: Established, status: \"True\"}]}", kube.Current,
			"there is nothing to wait for"},
		{"definition refused", definition + "status: {conditions: [{type: NamesAccepted, status: \"False\", reason: NameConflict}]}", kube.Failed,
			"NameConflict"},

		{"fields of the wrong type", deployment + "spec: {replicas: many, paused: 1}\nstatus: {observedGeneration: 3.0, replicas: [], " +
			"conditions: {type: x}}", kube.InProgress, "0 of 1 replicas updated"},
		{"status that is a string", deployment + "status: fine", kube.InProgress, "the controller has not seen it yet"},
		{"conditions that are none", custom + "status: {conditions: [1, {type: Ready}]}", kube.InProgress, "not Ready: no reason given"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var content map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(tt.object), &content))
			data, err := yaml.YAMLToJSON([]byte(tt.object))
			require.NoError(t, err)
			object := &unstructured.Unstructured{}
			require.NoError(t, object.UnmarshalJSON(data))
			want := kube.Result{State: tt.state, Message: tt.message}
			assert.Equal(t, want, kube.Status(object))
			// generation is read as an integer alone, as the API server sends it.
			if content["metadata"].(map[string]any)["generation"] == nil {
				assert.Equal(t, want, kube.Status(&unstructured.Unstructured{Object: content}), "numbers may be float64 too")
			}
		})
	}
}
