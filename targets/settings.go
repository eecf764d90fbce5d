package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"

	"github.com/grimoire-build/grimoire/internal/checkout"
	"github.com/grimoire-build/grimoire/internal/settings"
	"github.com/grimoire-build/grimoire/internal/stage"
)

// Current returns the service with every setting filled in: from the environment, else as
// configured, else derived. The error names each setting that is wrong, and a folder that is no
// module.
func Current() (Service, error) { return currentFor("") }

// currentFor is Current for a target: what is wrong with the settings of others is not its
// business.
func currentFor(target string) (Service, error) {
	s, _, problems, err := resolve(asConfigured(), os.Getenv)
	if err != nil {
		return s, err
	}
	return s, joined(problems, target)
}

// joined returns what is wrong with the settings that a target needs.
func joined(problems []settings.Problem, target string) error {
	var all []error
	for _, p := range problems {
		if p.NeededBy(target) {
			all = append(all, p.Err)
		}
	}
	return errors.Join(all...)
}

// resolve fills in what s does not say. The error is a folder that is no module.
func resolve(s Service, getenv func(string) string) (Service, []settings.Value, []settings.Problem, error) {
	modulePath, err := readModulePath(cmp.Or(s.Dir, "."))
	if err != nil {
		return s, nil, nil, err
	}
	values, problems := settings.Resolve(
		&s,
		getenv,
		settings.Facts{Module: modulePath, CI: settings.IsCI(getenv("CI"))},
	)
	return s, values, problems, nil
}

// Settings lists every setting with its value, where that came from (the environment, Configure,
// the module, git, or a default), what the environment replaced in Configure, its variable, the
// targets that need it, and what it is. Values of secrets are not told.
//
// Settings: SETTINGS_FORMAT (text), SETTINGS_TARGET.
func Settings(ctx context.Context) error {
	service, values, problems, err := resolve(asConfigured(), os.Getenv)
	if err != nil {
		return err
	}
	service.hide()
	if err := joined(problems, "settings"); err != nil {
		return err
	}
	var format, target string
	for i, v := range values {
		switch {
		case v.Env == "SETTINGS_FORMAT":
			format = v.Text
		case v.Env == "SETTINGS_TARGET":
			target = v.Text
		case v.Field == "Image.Tag" && v.Text == "":
			values[i].Text = gitTag(ctx, service)
		}
	}
	list := settings.NewList(values, target, stage.Mask)
	for _, m := range settings.Misspelt(os.Environ(), service.own()) {
		list.Misspelt = append(list.Misspelt, settings.Suggestion{Name: m.Name, Meant: m.Meant.Env})
	}
	list.Unknown = settings.Unknown(os.Environ(), service.own())
	var wrong []error
	for _, p := range problems {
		if target == "" || p.NeededBy(target) {
			text := stage.Mask(p.Err.Error())
			list.Errors = append(list.Errors, text)
			wrong = append(wrong, errors.New(text))
		}
	}
	text := list.Text()
	if format == "json" {
		if text, err = list.JSON(); err != nil {
			return err
		}
	}
	if _, err := os.Stdout.WriteString(text); err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	return errors.Join(wrong...)
}

// gitTag is the tag that an image gets from git; empty where git does not tell.
func gitTag(ctx context.Context, s Service) string {
	tree, err := checkout.Read(ctx, s.Dir)
	if err != nil {
		return ""
	}
	return tree.Tag()
}

// SettingsOf lists the settings that a target needs, each with its variable, its field, what it is
// and its default, as text to be read; empty for a target that needs none. It is for a magefile
// that makes its own help.
func SettingsOf(target string) string { return settings.Help(target) }

// own are the variables of the environment that are the service's.
func (s Service) own() []string {
	return append(append([]string(nil), s.OwnVariables...), s.Image.Secrets...)
}

// ModulePath reads the path of the service's module.
func (s Service) ModulePath() (string, error) { return readModulePath(s.Dir) }

func readModulePath(dir string) (string, error) {
	file := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		abs, _ := filepath.Abs(dir)
		return "", fmt.Errorf(
			"there is no go.mod in %s; run mage in the folder of the service's module, set Service.Dir to it, "+
				"or make one with `go mod init`",
			abs,
		)
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
