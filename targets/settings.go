package targets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/grimoire-build/grimoire/internal/mask"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// setting is a setting with its value and where that came from.
type setting struct {
	// Name is the field of Service.
	Name string
	// Env is the variable of the environment that sets it.
	Env string
	// Value is what holds.
	Value string
	// Source is "Configure", "environment" or "default".
	Source string
}

// Current returns the service with every setting filled in: as configured, else from the environment, else derived. The
// error names each setting that is wrong, and a folder that is no module.
func Current() (Service, error) {
	s, _, errs := resolve(asConfigured(), os.Getenv)
	return s, joined(errs, "")
}

// settingError is a setting that is wrong.
type settingError struct {
	name string // the field of Service
	err  error
}

// joined returns what is wrong with the settings whose name begins with one of the prefixes, and with what has no name.
func joined(errs []settingError, prefixes ...string) error {
	var all []error
	for _, e := range errs {
		if e.name == "" || slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(e.name, prefix) }) {
			all = append(all, e.err)
		}
	}
	return errors.Join(all...)
}

// ofTarget are the prefixes of the settings that a target needs; those of others cannot fail it.
var ofTarget = map[string][]string{
	"lint": {}, "vet": {}, "test": {"Test."}, "image": {"Image."}, "push": {"AllowPullRequest", "Image."}, "copy": {"AllowPullRequest", "Image."},
}

// currentFor is Current for a target: what is wrong with the settings of others is not its business.
func currentFor(target string) (Service, error) {
	prefixes, ok := ofTarget[target]
	if !ok {
		prefixes = []string{""}
	}
	s, _, errs := resolve(asConfigured(), os.Getenv)
	return s, joined(errs, prefixes...)
}

func resolve(s Service, getenv func(string) string) (Service, []setting, []settingError) {
	r := &resolver{getenv: getenv}
	str(r, &s.Dir, "Dir", "", ".")
	modulePath, err := readModulePath(s.Dir)
	if err != nil {
		return s, nil, []settingError{{err: err}}
	}
	str(r, &s.Name, "Name", "", nameOf(modulePath))
	str(r, &s.Build, "Build", "", "build")
	value(r, &s.AllowPullRequest, "AllowPullRequest", "ALLOW_PULL_REQUEST", false, truth)

	str(r, &s.Test.Packages, "Test.Packages", "TEST_PACKAGES", "./...")
	value(r, &s.Test.Timeout, "Test.Timeout", "TEST_TIMEOUT", 300*time.Second, positiveDuration)
	value(r, &s.Test.Coverage, "Test.Coverage", "COVERAGE_THRESHOLD", 70, percent)
	oneOf(r, &s.Test.Race, "Test.Race", "TEST_RACE", "auto", "on", "off")

	str(r, &s.Image.Registry, "Image.Registry", "REGISTRY_HOST", "")
	str(r, &s.Image.Repository, "Image.Repository", "IMAGE_REPOSITORY", repositoryOf(modulePath))
	str(r, &s.Image.Tag, "Image.Tag", "IMAGE_TAG", "")
	oneOf(r, &s.Image.Builder, "Image.Builder", "IMAGE_BUILDER", "auto", "engine", "go")
	str(r, &s.Image.Dockerfile, "Image.Dockerfile", "DOCKERFILE", "Dockerfile")
	str(r, &s.Image.Main, "Image.Main", "IMAGE_MAIN", "")
	str(r, &s.Image.Base, "Image.Base", "IMAGE_BASE", "")
	str(r, &s.Image.Platform, "Image.Platform", "IMAGE_PLATFORM", "linux/amd64")
	value(r, &s.Image.CGO, "Image.CGO", "IMAGE_CGO", false, truth)
	str(r, &s.Image.Target, "Image.Target", "IMAGE_TARGET", "")
	str(r, &s.Image.Args, "Image.Args", "IMAGE_ARGS", "")
	str(r, &s.Image.Secrets, "Image.Secrets", "IMAGE_SECRETS", "")
	str(r, &s.Image.Network, "Image.Network", "IMAGE_NETWORK", "")
	value(r, &s.Image.Rebuild, "Image.Rebuild", "IMAGE_REBUILD", false, truth)
	oneOf(r, &s.Image.Latest, "Image.Latest", "IMAGE_LATEST", "on", "off")
	str(r, &s.Image.CopyTo, "Image.CopyTo", "IMAGE_COPY_TO", "")
	value(r, &s.Image.AllowDirty, "Image.AllowDirty", "ALLOW_DIRTY", false, truth)

	str(r, &s.Deploy.Manifests, "Deploy.Manifests", "DEPLOY_MANIFESTS", "deploy")
	str(r, &s.Deploy.Image, "Deploy.Image", "DEPLOY_IMAGE", "")
	if image := s.Deploy.Image; image != "" && !strings.Contains(image, "@sha256:") {
		r.fail("Deploy.Image", fmt.Errorf(
			"the setting Deploy.Image (DEPLOY_IMAGE) is %q, which may be another image tomorrow; write it by digest, name@sha256:…", image))
	}
	str(r, &s.Deploy.Context, "Deploy.Context", "KUBE_CONTEXT", "")
	str(r, &s.Deploy.Namespace, "Deploy.Namespace", "KUBE_NAMESPACE", "")
	value(r, &s.Deploy.Timeout, "Deploy.Timeout", "DEPLOY_TIMEOUT", 5*time.Minute, positiveDuration)
	value(r, &s.Deploy.Force, "Deploy.Force", "DEPLOY_FORCE", false, truth)
	rollback := []string{"never", "on failure"}
	if getenv("CI") != "" {
		slices.Reverse(rollback)
	}
	oneOf(r, &s.Deploy.Rollback, "Deploy.Rollback", "DEPLOY_ROLLBACK", rollback...)
	str(r, &s.Deploy.RollbackTo, "Deploy.RollbackTo", "ROLLBACK_TO", "")
	value(r, &s.Deploy.KeepRemoved, "Deploy.KeepRemoved", "DEPLOY_KEEP_REMOVED", false, truth)
	value(r, &s.Deploy.LogLines, "Deploy.LogLines", "LOG_LINES", 100, positiveNumber)
	value(r, &s.Deploy.FollowLogs, "Deploy.FollowLogs", "LOG_FOLLOW", false, truth)
	str(r, &s.Deploy.Environment, "Deploy.Environment", "ENVIRONMENT_REPOSITORY", "")
	str(r, &s.Deploy.EnvironmentBranch, "Deploy.EnvironmentBranch", "ENVIRONMENT_BRANCH", "")
	str(r, &s.Deploy.EnvironmentPath, "Deploy.EnvironmentPath", "ENVIRONMENT_PATH", "")
	oneOf(r, &s.Deploy.Wait, "Deploy.Wait", "DEPLOY_WAIT", "auto", "on", "off")
	str(r, &s.Deploy.PromoteFrom, "Deploy.PromoteFrom", "PROMOTE_FROM", s.Deploy.Environment)
	str(r, &s.Deploy.PromoteFromBranch, "Deploy.PromoteFromBranch", "PROMOTE_FROM_BRANCH", "")
	str(r, &s.Deploy.PromoteFromPath, "Deploy.PromoteFromPath", "PROMOTE_FROM_PATH", "")
	return s, r.settings, r.errs
}

// Settings lists every setting with its value and where that came from: the magefile, the environment, or a default.
// Secrets are no settings: they come from the environment alone and are not listed.
func Settings(context.Context) error {
	service, settings, errs := resolve(asConfigured(), os.Getenv)
	service.hide()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, s := range settings {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, orDash(stage.Mask(s.Value)), s.Source, s.Env)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := joined(errs, ""); err != nil {
		return errors.New(stage.Mask(err.Error()))
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// withoutLogin is a repository's URL without the login that it should not hold but may. What stands before a lone @ is ssh's
// user, which is no secret.
func withoutLogin(repository string) string {
	scheme, rest, ok := strings.Cut(repository, "://")
	if !ok {
		scheme, rest = "", repository
	}
	i := strings.LastIndexByte(rest, '@')
	if i < 0 || !ok && !strings.Contains(rest[:i], ":") {
		return repository
	}
	if ok {
		scheme += "://"
	}
	return scheme + rest[i+1:]
}

// withoutSecrets is a list of arguments without the values of those that are named like secrets, which an image refuses.
func withoutSecrets(args string) string {
	fields := strings.Fields(args)
	for i, field := range fields {
		if name, _, ok := strings.Cut(field, "="); ok && mask.SecretName(name) {
			fields[i] = name + "=" + mask.Mark
		}
	}
	return strings.Join(fields, " ")
}

type resolver struct {
	getenv   func(string) string
	settings []setting
	errs     []settingError
}

func (r *resolver) fail(name string, err error) {
	r.errs = append(r.errs, settingError{name, err})
}

func (r *resolver) add(name, env, text, source string) {
	r.settings = append(r.settings, setting{Name: name, Env: env, Value: text, Source: source})
}

// value fills in *p where it is the zero value, from the environment by parse, else from the default.
func value[T comparable](r *resolver, p *T, name, env string, def T, parse func(string) (T, error)) {
	var zero T
	source := "Configure"
	if *p == zero {
		source = "default"
		*p = def
		if text := strings.TrimSpace(r.lookup(env)); text != "" {
			source = "environment"
			v, err := parse(text)
			if err != nil {
				r.fail(name, fmt.Errorf("reading the setting %s from %s=%q: %w", name, env, text, err))
			} else {
				*p = v
			}
		}
	}
	text := fmt.Sprint(*p)
	if env == "ENVIRONMENT_REPOSITORY" || env == "PROMOTE_FROM" {
		text = withoutLogin(text)
	}
	if env == "IMAGE_ARGS" {
		text = withoutSecrets(text)
	}
	r.add(name, env, text, source)
}

func (r *resolver) lookup(env string) string {
	if env == "" {
		return ""
	}
	return r.getenv(env)
}

func str(r *resolver, p *string, name, env, def string) {
	value(r, p, name, env, def, func(s string) (string, error) { return s, nil })
}

// oneOf takes the first of the words as the default, and checks what the magefile says too.
func oneOf(r *resolver, p *string, name, env string, words ...string) {
	str(r, p, name, env, words[0])
	if !slices.Contains(words, *p) {
		r.fail(name, fmt.Errorf("the setting %s (%s) is %q; it can be %s", name, env, *p, strings.Join(words, ", ")))
	}
}

func truth(s string) (bool, error) {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("this is neither; write true or false")
	}
	return v, nil
}

func positiveNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 {
		return 0, errors.New("this is no number above zero; write it like 3")
	}
	return n, nil
}

func positiveDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("this is no length of time; write it like 90s or 5m")
	}
	return d, nil
}

func percent(s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(v <= 100) {
		return 0, fmt.Errorf("this is no percentage; write it like 75")
	}
	if v <= 0 {
		// Zero in the field means the default, so none has a value of its own.
		return -1, nil
	}
	return v, nil
}

// ModulePath reads the path of the service's module.
func (s Service) ModulePath() (string, error) { return readModulePath(s.Dir) }

func readModulePath(dir string) (string, error) {
	file := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		abs, _ := filepath.Abs(dir)
		return "", fmt.Errorf("there is no go.mod in %s; run mage in the folder of the service's module, set Service.Dir to it, or make one with `go mod init`", abs)
	}
	if err != nil {
		return "", fmt.Errorf("reading the module: %w", err)
	}
	modulePath := modfile.ModulePath(data)
	if modulePath == "" {
		return "", fmt.Errorf("%s names no module; its first line has to be like `module example.org/shop/pay`", file)
	}
	return modulePath, nil
}

// nameOf is the last element of a module path that is no major version.
func nameOf(modulePath string) string {
	prefix, _, ok := module.SplitPathVersion(modulePath)
	if !ok {
		prefix = modulePath
	}
	return strings.ToLower(path.Base(prefix))
}

// repositoryOf is a module path without its host and major version.
func repositoryOf(modulePath string) string {
	prefix, _, ok := module.SplitPathVersion(modulePath)
	if !ok {
		prefix = modulePath
	}
	if host, rest, ok := strings.Cut(prefix, "/"); ok && strings.Contains(host, ".") {
		prefix = rest
	}
	return strings.ToLower(prefix)
}
