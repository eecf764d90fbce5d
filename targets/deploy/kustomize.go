package deploy

import (
	"context"

	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/tool"
)

// kustomize renders a folder by a kustomize that is pinned by version and checksum and built once a machine. As a library it would
// cost every service's cold compile a third more, and join its module graph; a kustomize that happens to be installed could be of
// any version, and CI's would render something else. Plugins and charts are off, as kustomize has it; files outside of the
// kustomization's folder are refused, but for bases.
func kustomize(ctx context.Context, dir string) ([]byte, error) {
	pinned, err := tool.Kustomize()
	if err != nil {
		return nil, err
	}
	exe, err := pinned.Path(ctx, ".")
	if err != nil {
		return nil, err
	}
	return process.Capture(ctx, process.Command(ctx, exe, "build", dir))
}
