package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
)

// account is what the demo tells at its end.
type account struct {
	service, tag string
	stages       []report.Stage
	took         time.Duration

	reference string
	registry  string

	context     string
	environment string
	deployed    commit
	already     bool
}

// write writes the account; serving says that the registry stays up.
func (a account) write(w io.Writer, serving bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s at %s went from source to a deployment in %s.\n\n", a.service, a.tag, seconds(a.took.Seconds()))
	stages := slices.SortedFunc(slices.Values(a.stages), func(x, y report.Stage) int { return x.Start.Compare(y.Start) })
	for _, s := range stages {
		fmt.Fprintf(&b, "  %-8s %-8s %8s\n", s.Name, s.Result, seconds(s.Seconds))
	}
	where := ""
	if a.registry != "" {
		where = " (kept in " + a.registry + ")"
	}
	fmt.Fprintf(&b, "\nImage, by digest%s:\n\n  %s\n", where, a.reference)
	switch {
	case a.context != "":
		fmt.Fprintf(&b, "\nDeployed to the kube context %s: the rollout is complete.\n", a.context)
	case a.already:
		fmt.Fprintf(&b, "\nDeployed already, so nothing was committed; the environment repository %s holds\n\n  %s %s\n",
			a.environment, a.deployed.hash[:12], a.deployed.subject)
	default:
		fmt.Fprintf(&b, "\nDeployed by commit, in the environment repository %s:\n\n  %s %s\n\n", a.environment, a.deployed.hash[:12], a.deployed.subject)
		for line := range strings.Lines(a.deployed.diff) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimRight(line, "\n"))
		}
	}
	b.WriteString("\nWhat to try next:\n\n")
	next := [][2]string{{"go run . demo", "again: nothing is built, pushed or committed twice"}}
	if serving {
		next = [][2]string{{"Ctrl-C", "ends the registry; until then the image can be pulled from it"}}
	} else {
		next = append(next, [2]string{"go run . demo -serve", "keeps the registry up at the end, to pull the image from"})
	}
	if a.environment != "" {
		next = append(next, [2]string{"git -C " + a.environment + " log -p", "every deployment, as a commit"})
	}
	next = append(next,
		[2]string{"go run . demo -context=NAME", "deploys to a cluster that your kubeconfig names"},
		[2]string{"go run . -l", "every target"},
	)
	width := 0
	for _, n := range next {
		width = max(width, len(n[0]))
	}
	for _, n := range next {
		fmt.Fprintf(&b, "  %-*s   %s\n", width, n[0], n[1])
	}
	b.WriteString("\nThe example service's pipeline is example-app/magefiles/magefile.go; yours would look like it.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }
