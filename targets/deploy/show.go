package deploy

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/stage"
	"github.com/grimoire-build/grimoire/kube"
	"github.com/grimoire-build/grimoire/targets"
)

// Diff shows what Deploy would change in the cluster, as the API server answers in a dry run. Nothing is changed, built or
// pushed: the image is DEPLOY_IMAGE, or the one that is deployed, or before there is one, what the manifests name. The values of Secrets
// are masked.
//
// Settings: DEPLOY_MANIFESTS (deploy), DEPLOY_IMAGE, KUBE_CONTEXT, KUBE_NAMESPACE, KUBECONFIG_DATA,
// DEPLOY_FORCE, DEPLOY_KEEP_REMOVED.
func Diff(ctx context.Context) error {
	return targets.ServiceStage(ctx, "diff", func(ctx context.Context, s targets.Service) error {
		objects, client, err := prepare(ctx, s)
		if err != nil {
			return err
		}
		options := options(s)
		if options.Image, err = setDiffImage(ctx, client, s, objects); err != nil {
			return err
		}
		plan, err := client.Plan(ctx, objects, options)
		if err != nil {
			return err
		}
		if plan.Empty() {
			fmt.Fprintln(process.Output(ctx), "nothing to change")
			return nil
		}
		return show(ctx, plan)
	}, nil)
}

// setDiffImage sets the image that Diff compares with, and returns it; empty where the objects stay as they are.
func setDiffImage(ctx context.Context, client *kube.Client, s targets.Service, objects []*kube.Object) (string, error) {
	if s.Deploy.Image != "" {
		_, err := kube.SetImage(objects, s.Deploy.Image)
		return s.Deploy.Image, err
	}
	release, err := client.History(ctx, releaseName(s.Name))
	if err != nil || release.Last.Image == "" {
		return "", err
	}
	if _, err := kube.SetImage(objects, release.Last.Image); err != nil { // the service's image may have been given another name since
		zerolog.Ctx(ctx).Warn().Err(err).Msg("comparing with the images as the manifests name them, not with the one that is deployed")
	}
	return release.Last.Image, nil
}

// show prints what a deployment changes.
func show(ctx context.Context, plan kube.Plan) error {
	var text strings.Builder
	colour := stage.Coloured()
	line := func(sign byte, what string) {
		writeLine(&text, string(sign)+" "+what, colour)
	}
	unchanged := 0
	for _, change := range plan.Changes {
		switch change.Action {
		case kube.Created:
			line('+', change.Object.String()+" is new")
		case kube.Configured:
			if diff := change.Diff(); diff != "" {
				for l := range strings.Lines(diff) {
					writeLine(&text, strings.TrimSuffix(l, "\n"), colour)
				}
			} else {
				line('~', change.Object.String()+" changes in what only the server sees, such as who manages which field")
			}
		default:
			unchanged++
		}
	}
	for _, o := range plan.Hooks {
		line('+', o.String()+" runs before the workloads")
	}
	for _, o := range plan.Removed {
		line('-', o.String()+" is not declared any more, and is deleted once the rollout is good")
	}
	if unchanged > 0 {
		fmt.Fprintf(&text, "  %d unchanged\n", unchanged)
	}
	_, err := io.WriteString(process.Output(ctx), text.String())
	return err
}

// writeLine writes a line of a diff.
func writeLine(w io.Writer, line string, colour bool) {
	start := ""
	switch {
	case !colour || line == "":
	case strings.HasPrefix(line, "@@"):
		start = "\x1b[36m"
	case line[0] == '+':
		start = "\x1b[32m"
	case line[0] == '-':
		start = "\x1b[31m"
	}
	if start != "" {
		line = start + line + "\x1b[0m"
	}
	fmt.Fprintln(w, line)
}
