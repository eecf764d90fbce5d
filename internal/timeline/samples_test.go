package timeline_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/grimoire-build/grimoire/internal/report"
)

// The samples are runs as they come: a service that is tested, built, pushed and deployed.

var began = time.Date(2026, 11, 3, 14, 2, 11, 280_000_000, time.FixedZone("", 3600))

const digest = "sha256:9f2c4e1ab37d5c60e8b1f04a6d92738c5e1f7b0a4c83d6e295f1b7a8c0d3e4f6"

// at is a moment of a sample, in seconds since it began.
func at(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }

func stage(name string, from, to, own float64, result report.Result) report.Stage {
	return report.Stage{Name: name, Start: at(from), End: at(to), Seconds: own, Result: result}
}

func process(from, to float64, code int, command string) report.Process {
	return report.Process{Command: strings.Fields(command), Start: at(from), End: at(to), ExitCode: code}
}

func run(end float64, result report.Result, stages ...report.Stage) report.Run {
	return report.Run{
		Version: report.Version,
		Service: "shop/pay",
		Commit:  "4f2a91c0de3b77",
		Targets: []string{"deploy"},
		Forge:   "gitea",
		URL:     "https://git.example.org/shop/pay/actions/runs/412",
		Trace:   "0af7651916cd43dd8448eb211c80319c",
		Start:   began,
		End:     at(end),
		Result:  result,
		Stages:  stages,
	}
}

// green is a run that went well: the checks in parallel, then one after the other.
func green() report.Run {
	lint := stage("lint", 0.02, 14.61, 8.37, report.OK)
	lint.Needs = []string{"vet"}
	lint.Processes = []report.Process{
		process(0.05, 0.31, 0, "gofmt -l ."),
		process(0.33, 1.12, 0, "go mod tidy -diff"),
		process(7.42, 14.57, 0, "build/tools/staticcheck-2026.1 -f json ./..."),
	}
	vet := stage("vet", 1.15, 7.39, 6.24, report.OK)
	vet.Processes = []report.Process{process(1.17, 7.36, 0, "go vet -json ./...")}
	test := stage("test", 0.03, 31.92, 31.89, report.OK)
	test.Made = []string{"build/coverage.out", "build/coverage.html", "build/junit.xml"}
	test.Processes = []report.Process{
		process(0.06, 0.19, 0, "go list -f {{.Dir}} ./..."),
		process(0.21, 31.4, 0, "go test -race -json -timeout=300s -coverprofile=build/coverage.out ./..."),
		process(31.42, 31.88, 0, "go tool cover -html=build/coverage.out -o build/coverage.html"),
	}
	deploy := stage("deploy", 31.95, 62.4, 16.62, report.OK)
	deploy.Needs = []string{"push"}
	deploy.Made = []string{"https://git.example.org/shop/environment/commit/77ab01"}
	deploy.Processes = []report.Process{
		process(45.8, 46.9, 0, "git clone --depth=1 https://git.example.org/shop/environment"),
		process(47.0, 47.05, 0, "git commit -m pay:4f2a91c"),
		process(47.06, 48.4, 0, "git push origin HEAD:main"),
	}
	push := stage("push", 31.96, 45.78, 4.32, report.OK)
	push.Needs = []string{"image"}
	push.Made = []string{"registry.example.org/shop/pay:4f2a91c0de3b77@" + digest}
	image := stage("image", 31.97, 41.47, 9.5, report.OK)
	image.Processes = []report.Process{
		process(32.0, 32.03, 0, "git status --porcelain"),
		process(32.05, 32.06, 0, "git rev-parse HEAD"),
		process(32.1, 40.9, 0, "go build -trimpath -o build/pay ./cmd/pay"),
	}
	image.Made = []string{digest}
	return run(62.41, report.OK, lint, test, vet, deploy, push, image)
}

// red is a run whose tests failed, so that what needs them was skipped.
func red() report.Run {
	lint := stage("lint", 0.02, 9.61, 9.59, report.OK)
	lint.Processes = []report.Process{process(0.05, 0.31, 0, "gofmt -l ."), process(0.4, 9.5, 0, "go vet ./...")}
	test := stage("test", 0.03, 21.3, 21.27, report.Failed)
	test.Reason = `2 of 148 tests failed
    --- FAIL: TestRefund/partial (0.03s)
        refund_test.go:61:
            	Error Trace:	/src/shop/pay/refund_test.go:61
            	Error:      	Not equal:
            	            	expected: "EUR 12.50"
            	            	actual  : "EUR 12.5"
            	Test:       	TestRefund/partial
    --- FAIL: TestRefund (0.03s)
coverage is 81.2 %, 70 % is asked for`
	test.Processes = []report.Process{
		process(0.06, 0.19, 0, "go list ./..."),
		process(0.21, 21.2, 1, "go test -race -json -timeout=300s -coverprofile=build/coverage.out ./..."),
	}
	test.Made = []string{"build/junit.xml"}
	for i := range 40 {
		f := 1 + float64(i)*0.5
		test.Processes = append(test.Processes, process(f, f+0.02, 0, fmt.Sprintf("git show HEAD:testdata/%d.golden", i)))
	}
	scan := stage("scan", 0.04, 21.31, 21.27, report.Skipped)
	scan.Reason = "ended early, since test had failed"
	scan.Processes = []report.Process{process(0.1, 21.3, 143, "govulncheck -json ./...")}
	image := stage("image", 21.3, 21.3, 0, report.Skipped)
	image.Reason, image.Needs = "test failed, and image needs it", []string{"lint", "test"}
	push := stage("push", 21.3, 21.3, 0, report.Skipped)
	push.Reason, push.Needs = "image was skipped, and push needs it", []string{"image"}
	deploy := stage("deploy", 21.3, 21.3, 0, report.Skipped)
	deploy.Reason, deploy.Needs = "push was skipped, and deploy needs it", []string{"push"}
	r := run(21.33, report.Failed, lint, test, scan, image, push, deploy)
	r.Targets = []string{"lint", "test", "scan", "deploy"}
	return r
}

// plan is a dry run.
func plan() report.Run {
	step := func(name, reason string, needs ...string) report.Stage {
		s := stage(name, 0, 0, 0, report.Planned)
		s.Reason, s.Needs = reason, needs
		return s
	}
	r := run(0, report.Planned,
		step("lint", "gofmt, go mod tidy -diff, go vet and staticcheck in 3 modules"),
		step("test", "go test -race -timeout=300s ./...\nand a coverage of 70 % at least"),
		step("image", "a Docker Engine builds Dockerfile for linux/amd64 and linux/arm64", "lint", "test"),
		step("push", "registry.example.org/shop/pay:4f2a91c0de3b77", "image"),
		step("deploy", "server-side apply of 7 objects to the context staging, namespace shop", "push"),
		step("announce", "", "deploy"),
		step("smoke", "GET https://pay.staging.example.org/healthz", "deploy"),
	)
	r.URL = ""
	return r
}

// many has more stages than a screen has lines.
func many() report.Run {
	var stages []report.Stage
	end := 0.0
	for i := range 200 {
		from := float64(i/4) * 7.5
		to := from + 2 + float64(i*37%50)/9
		s := stage(fmt.Sprintf("module-%03d", i), from, to, to-from, report.OK)
		if i >= 4 {
			s.Needs = []string{fmt.Sprintf("module-%03d", i-4)}
		}
		if i%9 == 0 {
			s.Processes = []report.Process{process(from+0.1, to-0.1, 0, "go test ./...")}
		}
		if i == 120 {
			s.Result, s.Reason = report.Failed, "1 finding, the first is server.go:14:2: unused variable x"
		}
		end = max(end, to)
		stages = append(stages, s)
	}
	return run(end, report.Failed, stages...)
}

// odd has all that is not as it should be: a stage that goes on, clocks that went backwards, long names, other scripts.
func odd() report.Run {
	long := stage(strings.Repeat("a-very-long-name-", 18)[:300], 0, 4, 4, report.OK)
	back := stage("clock", 3, 1, 2, report.OK)
	instant := stage("instant", 2, 2, 0, report.Stopped)
	instant.Reason = "signal: interrupt"
	open := stage("統合テスト 🧪", 4, 0, 0, "")
	open.End = time.Time{}
	open.Needs = []string{long.Name, "nowhere"}
	open.Processes = []report.Process{{Command: []string{"sh", "-c", "sleep 60 && echo \"it's\" done", ""}, Dir: "example-app", Start: at(4.1)}}
	waits := stage("turn", 0.5, 6, 1.5, report.OK)
	waits.Needs = []string{"clock"}
	unknown := stage("later", 5, 5.5, 0.5, "postponed")
	r := run(7, "", long, waits, instant, back, open, unknown)
	r.Service, r.URL = "", "javascript:alert(1)"
	return r
}

func samples() map[string]report.Run {
	return map[string]report.Run{
		"green": green(), "red": red(), "plan": plan(), "many": many(), "odd": odd(), "none": run(0, report.OK),
		"zero": run(0, report.OK, stage("settings", 0, 0, 0, report.OK)),
	}
}
