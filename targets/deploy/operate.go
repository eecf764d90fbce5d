package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/stage"
	"github.com/grimoire-build/grimoire/kube"
	"github.com/grimoire-build/grimoire/targets"
)

// Rollback puts back the revision before the one that is live, or ROLLBACK_TO, and waits until it is live again. All of the
// release is put back, not the workload alone; what came after it is deleted. Hooks do not run, so that a migrated database stays
// migrated. `mage status` lists the revisions. With ENVIRONMENT_REPOSITORY set it commits the image that the environment held before,
// a second time the one before that, or ROLLBACK_TO, a digest or one of its commits. The image that is live then is printed on stdout.
//
// Settings: ALLOW_PULL_REQUEST, REGISTRY_HOST, REGISTRY_USER, REGISTRY_PASS, IMAGE_REPOSITORY,
// KUBE_CONTEXT, KUBE_NAMESPACE, KUBECONFIG_DATA, DEPLOY_TIMEOUT (5m), ROLLBACK_TO,
// DEPLOY_KEEP_REMOVED, ENVIRONMENT_REPOSITORY, ENVIRONMENT_BRANCH, ENVIRONMENT_PATH, DEPLOY_WAIT
// (auto).
func Rollback(ctx context.Context) error {
	return targets.ServiceStage(ctx, "rollback",
		func(ctx context.Context, s targets.Service) error {
			if err := targets.MayPublish(s); err != nil {
				return err
			}
			if s.Deploy.Environment != "" {
				return rollBackByCommit(ctx, s)
			}
			to, err := revisionNumber(s)
			if err != nil {
				return err
			}
			client, err := connect(ctx, s)
			if err != nil {
				return err
			}
			revision, err := client.Rollback(ctx, kube.RollbackOptions{Name: releaseName(s.Name), To: to, KeepRemoved: s.Deploy.KeepRemoved, Timeout: s.Deploy.Timeout})
			if err != nil {
				return err
			}
			zerolog.Ctx(ctx).Info().Int("revision", revision.Number).Str("image", revision.Image).Str("commit", revision.Commit).Msg("live again")
			stage.Made(ctx, revision.String())
			return stage.Result(revision.Image)
		},
		func(_ context.Context, s targets.Service) (string, error) {
			if err := targets.MayPublish(s); err != nil {
				return "", err
			}
			to := cmp.Or(s.Deploy.RollbackTo, "what was live before")
			if s.Deploy.Environment != "" {
				return "write " + to + " into the environment repository, commit and push" + planWait(s), nil
			}
			_, err := revisionNumber(s)
			return "put back " + to, err
		})
}

// revisionNumber is the revision of the cluster to go back to; zero for the one before.
func revisionNumber(s targets.Service) (int, error) {
	if s.Deploy.RollbackTo == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s.Deploy.RollbackTo)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("the setting Deploy.RollbackTo (ROLLBACK_TO) is %q, which is no revision; write one of the numbers that `mage status` lists", s.Deploy.RollbackTo)
	}
	return n, nil
}

// Status prints what is deployed: the last deployment and how it ended, each object with its state, the pods, and the revisions that
// Rollback can go back to. It fails where something is missing or has failed, and where what Deploy waits for is not current. A hook is the
// Job of the image that is deployed, and may be gone.
//
// Settings: DEPLOY_MANIFESTS (deploy), KUBE_CONTEXT, KUBE_NAMESPACE, KUBECONFIG_DATA.
func Status(ctx context.Context) error {
	return targets.ServiceStage(ctx, "status", func(ctx context.Context, s targets.Service) error {
		objects, client, err := prepare(ctx, s)
		if err != nil {
			return err
		}
		release, err := client.History(ctx, releaseName(s.Name))
		if err != nil {
			return err
		}
		observed, err := client.Observe(ctx, objects, release.Last.Image)
		if err != nil {
			return err
		}
		var text strings.Builder
		bad := writeStatus(&text, s.Name, release, observed)
		if err := stage.Result(strings.TrimSuffix(stage.Mask(text.String()), "\n")); err != nil {
			return err
		}
		if len(bad) > 0 {
			return fmt.Errorf("not as it should be: %s; see above, and what `mage logs` prints", strings.Join(bad, ", "))
		}
		return nil
	}, nil)
}

// writeStatus writes the tables, and returns what is not good.
func writeStatus(text *strings.Builder, service string, release kube.History, observed []kube.Observed) (bad []string) {
	last := release.Last
	switch {
	case last.ID == "":
		fmt.Fprintf(text, "%s has not been deployed by grimoire\n", service)
	default:
		fmt.Fprintf(text, "%s: %s", service, last.Phase)
		if last.Revision > 0 {
			fmt.Fprintf(text, ", revision %d", last.Revision)
		}
		fmt.Fprintf(text, ", begun %s\n", time.Unix(last.Began, 0).UTC().Format(time.RFC3339))
		for _, line := range [][2]string{{"image", last.Image}, {"commit", last.Commit}} {
			if line[1] != "" {
				fmt.Fprintf(text, "%s: %s\n", line[0], line[1])
			}
		}
	}
	text.WriteByte('\n')
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	for _, o := range observed {
		fmt.Fprintf(table, "%s\t%s\t%s\n", o.Object, o.Result.State, firstLine(o.Result.Message))
		for _, pod := range o.Pods {
			state := string(pod.Result.State)
			if pod.Leaving {
				state = "leaving"
			}
			fmt.Fprintf(table, "  %s\t%s\t%s\n", pod.Name, state, firstLine(pod.Result.Message)+restarts(pod))
		}
		if !o.Good() {
			bad = append(bad, o.Object.String())
		}
	}
	_ = table.Flush()
	if len(release.Revisions) > 0 {
		fmt.Fprint(text, "\nrevisions to roll back to:\n")
		for _, r := range release.Revisions {
			fmt.Fprintf(table, "  %d\t%s\t%s\t%s\n", r.Number, time.Unix(r.Created, 0).UTC().Format(time.RFC3339), r.Image, r.Commit)
		}
		_ = table.Flush()
	}
	return bad
}

func restarts(pod kube.Pod) string {
	var n int64
	for _, c := range pod.Containers {
		n += c.Restarts
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d restarts", n)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// Logs prints the last lines (LOG_LINES, 100) of each container of the service's pods on stdout, each line with the pod and the
// container it is of. With LOG_FOLLOW=true it goes on until Ctrl-C.
//
// Settings: DEPLOY_MANIFESTS (deploy), KUBE_CONTEXT, KUBE_NAMESPACE, KUBECONFIG_DATA, LOG_LINES
// (100), LOG_FOLLOW.
func Logs(ctx context.Context) error {
	return targets.ServiceStage(ctx, "logs", func(ctx context.Context, s targets.Service) error {
		objects, client, err := prepare(ctx, s)
		if err != nil {
			return err
		}
		image, err := hooksImage(ctx, client, s, objects)
		if err != nil {
			return err
		}
		observed, err := client.Observe(ctx, objects, image)
		if err != nil {
			return err
		}
		var pods []kube.Pod
		for _, o := range observed {
			pods = append(pods, o.Pods...)
		}
		if len(pods) == 0 {
			return errors.New("no pod of the manifests' workloads is in the cluster; deploy them first, or see `mage status`")
		}
		return client.Logs(ctx, pods, kube.LogOptions{Lines: s.Deploy.LogLines, Follow: s.Deploy.FollowLogs}, func(pod kube.Pod, container, text string) {
			_ = stage.Result(stage.Mask(pod.Name + " " + container + ": " + text)) // where stdout is gone, the next signal ends it
		})
	}, nil)
}

// hooksImage is the image by which the hooks among the objects are found; empty where there is none.
func hooksImage(ctx context.Context, client *kube.Client, s targets.Service, objects []*kube.Object) (string, error) {
	isHook := func(o *kube.Object) bool { _, ok := o.GetAnnotations()[kube.HookAnnotation]; return ok }
	if !slices.ContainsFunc(objects, isHook) {
		return "", nil // and the login need not be able to read more than the pods
	}
	release, err := client.History(ctx, releaseName(s.Name))
	return release.Last.Image, err
}
