package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/grimoire-build/grimoire/internal/atomicfile"
	"github.com/grimoire-build/grimoire/internal/forge"
	"github.com/grimoire-build/grimoire/internal/mask"
	"github.com/grimoire-build/grimoire/internal/process"
	"github.com/grimoire-build/grimoire/internal/report"
	"github.com/grimoire-build/grimoire/internal/settings"
	"github.com/grimoire-build/grimoire/internal/telemetry"
	"github.com/grimoire-build/grimoire/internal/timeline"
)

// Options say how a pipeline runs. The zero value of a field is its default.
type Options struct {
	// Out is where its story goes. Default: os.Stderr.
	Out *os.File
	// Forge is where the run is. In a CI its story is told as JSON lines, elsewhere it is for people.
	Forge forge.Forge
	// DryRun says what would run, in which order and why, and runs nothing.
	DryRun bool
	// Limit is how many stages run at once, without those that wait for others. Default: as many as there are processors.
	Limit int
	// Targets are those that the command line asks for; the run is over when the last of them is.
	Targets []string
	// NoTable leaves out the table of stages at the end.
	NoTable bool
	// Workspace is the folder of the checkout, which the forge's annotations are relative to.
	Workspace string
	// Warning is what was wrong with what the forge says. It is told with the first stage.
	Warning error
	// Environ is where secrets are looked for, each "NAME=value".
	Environ []string
}

// FromEnvironment returns the options for this process: what the forge sets, CI, DRY_RUN and PIPELINE_TABLE (off) in the
// environment, targets on the command line.
func FromEnvironment() Options {
	f, err := forge.Detect(os.Getenv)
	var targets []string
	for _, arg := range os.Args[1:] {
		if !strings.HasPrefix(arg, "-") {
			targets = append(targets, arg)
		}
	}
	return Options{
		Forge:     f,
		Warning:   err,
		Workspace: os.Getenv("GITHUB_WORKSPACE"),
		DryRun:    settings.Dry(os.Getenv("DRY_RUN")),
		Targets:   targets,
		NoTable:   os.Getenv("PIPELINE_TABLE") == "off",
		Environ:   os.Environ(),
	}
}

// Pipeline holds the stages of a run.
type Pipeline struct {
	printer  *printer
	masker   *mask.Masker
	traced   func() *telemetry.Telemetry // begins with the first call
	dryRun   bool
	limit    int
	patience time.Duration // see the constant
	start    time.Time
	targets  []string
	table    bool
	forge    forge.Forge
	// workspace is the folder that annotations are relative to.
	workspace string
	stops     stops

	publishing sync.Mutex // of the reports, lest an older one come last

	watching sync.Mutex // never taken while mu is held
	watchers int        // how many stages are active, or their reports yet to be written

	mu       sync.Mutex
	turns    *sync.Cond // tells of turns that are given back
	running  int        // how many stages have a turn
	lastTurn time.Time  // when one was last taken or given back
	looking  bool       // whether stages are about to be looked at that may wait for others
	stages   map[string]*stage
	order    []*stage       // in which they were asked for
	active   int            // how many have been asked for and have not ended
	showing  bool           // the live line is kept
	broken   noLongerNeeded // names the first outermost stage that failed
	folders  []string       // where the reports go
	service  string
	commit   string
	warnings []func(zerolog.Logger) // to be told with the stage that begins next
}

// New returns a pipeline without stages.
func New(o Options) *Pipeline {
	if o.Out == nil {
		o.Out = os.Stderr
	}
	if o.Limit <= 0 {
		o.Limit = runtime.NumCPU()
	}
	p := &Pipeline{
		masker:    &mask.Masker{},
		dryRun:    o.DryRun,
		limit:     o.Limit,
		patience:  patience,
		start:     time.Now(),
		targets:   o.Targets,
		table:     !o.NoTable,
		forge:     o.Forge,
		workspace: o.Workspace,
		stages:    map[string]*stage{},
	}
	if o.Warning != nil {
		p.warnings = append(p.warnings, func(log zerolog.Logger) {
			log.Warn().Err(o.Warning).Msg("what the forge says of this run is not all known")
		})
	}
	p.turns = sync.NewCond(&p.mu)
	for _, secret := range p.masker.AddEnviron(o.Environ) {
		p.forge.Mask(o.Out, secret)
	}
	p.printer = newPrinter(o.Out, p.forge, p.masker)
	p.traced = sync.OnceValue(func() *telemetry.Telemetry {
		if o.DryRun || o.Environ == nil {
			return nil
		}
		return telemetry.Start(telemetry.Options{Environ: o.Environ, Mask: p.masker.Mask, Log: func(lost string) {
			lane := p.printer.lane("telemetry", nil)
			log := p.printer.logger(lane, "telemetry")
			log.Warn().Msg(lost)
			lane.close()
		}})
	})
	return p
}

// begin makes s one of the active stages, which a signal and the time limit of ctx stop, until end.
func (p *Pipeline) begin(ctx context.Context, s *stage, cancel context.CancelCauseFunc) {
	p.watch()
	p.mu.Lock()
	s.cancel = cancel
	if p.active++; p.active == 1 {
		p.show()
	}
	p.mu.Unlock()
	if why := p.stops.why(); why != nil {
		cancel(why)
	}
	p.stops.before(ctx, p.stop)
}

// watch watches for what stops the run, until unwatch was called as often.
func (p *Pipeline) watch() {
	p.watching.Lock()
	defer p.watching.Unlock()
	if p.watchers++; p.watchers == 1 {
		p.stops.watch(p.stop, p.kill)
	}
}

func (p *Pipeline) unwatch() {
	p.watching.Lock()
	defer p.watching.Unlock()
	if p.watchers--; p.watchers == 0 {
		p.stops.unwatch()
	}
}

// Warn has a warning told with the stage that begins next.
func (p *Pipeline) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, func(log zerolog.Logger) { log.Warn().Msg(text) })
}

// warn tells, once, what there is to warn of.
func (p *Pipeline) warn(log zerolog.Logger) {
	p.mu.Lock()
	warnings := p.warnings
	p.warnings = nil
	p.mu.Unlock()
	for _, tell := range warnings {
		tell(log)
	}
}

// stop ends all active stages.
func (p *Pipeline) stop(why *Stopped) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.order {
		if !s.ended() {
			s.cancel(why)
		}
	}
}

// kill ends what the run has started, at once and for good.
func (p *Pipeline) kill(grace time.Duration) {
	process.KillAll(grace)
	p.traced().Kill()
}

// failed is the error of an outermost stage that does not begin because another has failed, nil where none has.
func (p *Pipeline) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken.why == "" {
		return nil
	}
	broken := p.broken
	return &broken
}

// verdict says how a stage ended with err: its result, the reason for the report, and the error for whoever asked for it.
func (p *Pipeline) verdict(ctx context.Context, s *stage, err error) (result report.Result, reason string, _ error) {
	var (
		skip       Skip
		unneeded   *noLongerNeeded
		stopped    *Stopped
		dependency *dependencyFailed
	)
	if err != nil && ctx.Err() != nil {
		// What failed because everything was being stopped says so first.
		if cause := p.stops.cause(ctx); !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
	}
	failed := &Error{Stage: s.record.Name, Err: err, mask: p.masker.Mask}
	if nested, ok := err.(*Error); ok { // of a stage that this one needs: it tells of itself under its own name
		failed, dependency = nested, &dependencyFailed{nested}
	}
	switch {
	case err == nil && p.dryRun:
		return report.Planned, "", nil
	case err == nil:
		return report.OK, "", nil
	case errors.As(err, &skip):
		return report.Skipped, string(skip), nil
	case errors.As(err, &stopped):
		return report.Stopped, err.Error(), failed
	case errors.As(err, &unneeded):
		return report.Skipped, err.Error(), failed
	case dependency != nil || errors.As(err, &dependency):
		return report.Skipped, "it needs what failed: " + dependency.Error(), dependency.error
	default:
		return report.Failed, err.Error(), failed
	}
}

// end writes down how s ended, lets everybody know who waits for it, and returns its error. An outermost stage that ended well although
// the run was stopped meanwhile, or while its report was written, says so to mage, which would go on with the next target.
func (p *Pipeline) end(ctx context.Context, s *stage, err error, log zerolog.Logger) error {
	result, reason, serr := p.verdict(ctx, s, err)
	p.mu.Lock()
	s.record.End = time.Now()
	if !s.begin.IsZero() {
		s.record.Start = s.begin
		s.record.Seconds = seconds(s.record.End.Sub(s.begin) - s.waited)
	}
	s.record.Result = result
	if reason != "" {
		s.record.Reason = p.masker.Mask(reason)
	}
	took := s.record.Seconds
	p.giveTurn(s)
	if serr != nil {
		p.breakOff(s, result, serr)
	}
	if !s.mark {
		p.traced().Stage(s.span, s.parent.spanID(), s.record)
	}
	p.mu.Unlock()

	switch result {
	case report.OK:
		if s.mark {
			break
		}
		log.Info().Float64("seconds", took).Msg("done")
	case report.Planned:
	case report.Skipped:
		log.Warn().Str("reason", s.record.Reason).Msg("skipped")
	default:
		log.Error().Float64("seconds", took).Msg(string(result))
	}
	s.lane.close()
	s.err = serr
	p.mu.Lock()
	close(s.done)
	if p.active--; p.active == 0 {
		p.printer.show("")
	}
	over := p.over(s)
	p.mu.Unlock()
	if s.parent != nil {
		p.unwatch()
		return s.err
	}
	p.publish(over, log)
	if why := p.stops.why(); why != nil && s.err == nil {
		return why
	}
	return s.err
}

// breakOff notes that s has failed and ends the stages beside it, which no longer matter: what needed them both cannot run.
func (p *Pipeline) breakOff(s *stage, result report.Result, err error) {
	if s.parent == nil && p.broken.why == "" {
		p.broken = noLongerNeeded{s.record.Name + " failed", exitStatus(err)}
		if result == report.Stopped {
			p.broken.why = s.record.Name + " was stopped"
		}
	}
	if result == report.Stopped {
		return
	}
	for _, beside := range p.order {
		if beside != s && beside.parent == s.parent && !beside.always && !beside.ended() {
			beside.cancel(&noLongerNeeded{s.record.Name + " failed", exitStatus(err)})
		}
	}
}

// seconds rounds to what is worth reading, a millisecond.
func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}

// Report has the record of the run written to pipeline.json and pipeline.html in folder after every outermost stage. Asking twice for a
// folder is asking once.
func (p *Pipeline) Report(folder string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.folders, folder) {
		p.folders = append(p.folders, folder)
	}
}

// Describe names the service and the commit in the record of the run. What is empty stays as it was.
func (p *Pipeline) Describe(service, commit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.traced().Describe(service, commit)
	if service != "" {
		p.service = service
	}
	if commit != "" {
		p.commit = commit
	}
}

// Record returns the record of the run so far.
func (p *Pipeline) Record() report.Run {
	p.mu.Lock()
	defer p.mu.Unlock()
	run := report.Run{
		Version: report.Version, Service: p.service, Commit: p.commit, Targets: p.targets, Forge: p.forge.Name, URL: p.forge.RunURL,
		Trace: p.traced().TraceID(),
		Start: p.start, End: time.Now(), Result: report.OK,
	}
	if run.Commit == "" {
		run.Commit = p.forge.Commit[:min(12, len(p.forge.Commit))]
	}
	if p.dryRun {
		run.Result = report.Planned
	}
	for _, s := range p.order {
		if s.mark && s.ended() && s.err == nil {
			continue // there is nothing to tell of it
		}
		record := s.record
		record.Needs, record.Made, record.Processes = slices.Clone(record.Needs), slices.Clone(record.Made), slices.Clone(record.Processes)
		switch {
		case record.Result == report.Failed:
			run.Result = report.Failed
		case record.Result == report.Stopped && run.Result != report.Failed:
			run.Result = report.Stopped
		}
		run.Stages = append(run.Stages, record)
	}
	if p.broken.why == "" {
		return run
	}
	for _, name := range p.requested() {
		if p.stages[name] == nil && isKnown(name) {
			run.Stages = append(run.Stages, report.Stage{
				Name: name, Start: run.End, End: run.End, Result: report.Skipped, Reason: "it did not begin, since " + p.broken.why,
			})
		}
	}
	return run
}

// requested are the words of the command line as names of stages: targets, among them their arguments.
func (p *Pipeline) requested() []string {
	names := make([]string, len(p.targets))
	for i, target := range p.targets {
		names[i] = strings.ToLower(target[strings.LastIndexByte(target, ':')+1:])
	}
	return names
}

// Requested reports whether the command line asks for a target by name, in whatever namespace it was imported. What a target
// prints on stdout is for whoever asked for it, not for the targets that need it.
func (p *Pipeline) Requested(name string) bool {
	return slices.Contains(p.requested(), strings.ToLower(name))
}

// over reports whether the run is over with the outermost stage s: something failed, or it is the last target that the
// command line asks for. Mage says neither when it begins nor when it ends.
func (p *Pipeline) over(s *stage) bool {
	if p.active > 0 {
		return false
	}
	if p.broken.why != "" {
		return true
	}
	requested := p.requested()
	if len(requested) == 0 { // the default target
		return s.mark
	}
	i := slices.Index(requested, strings.ToLower(s.record.Name))
	return i >= 0 && !slices.ContainsFunc(requested[i+1:], func(name string) bool {
		later := p.stages[name] // one that has run as a dependency does not run again
		return later == nil && isKnown(name) || later != nil && !later.ended()
	})
}

// known are the names of the targets that are stages of the same name.
var known struct {
	mu    sync.Mutex
	names []string
}

// Known tells of targets that are stages of the same name: a word of the command line that is none of them may as well be the
// argument of one.
func Known(names ...string) {
	known.mu.Lock()
	defer known.mu.Unlock()
	known.names = append(known.names, names...)
}

func isKnown(name string) bool {
	known.mu.Lock()
	defer known.mu.Unlock()
	return slices.Contains(known.names, name)
}

func (p *Pipeline) maskAll(texts []string) []string {
	masked := make([]string, len(texts))
	for i, text := range texts {
		masked[i] = p.masker.Mask(text)
	}
	return masked
}

// publish writes the reports of the run so far, ends the stage's watch, lest a signal leave half of one, and gives the run's account
// where it is over.
func (p *Pipeline) publish(over bool, log zerolog.Logger) {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	run := p.Record()
	p.mu.Lock()
	folders := slices.Clone(p.folders)
	p.mu.Unlock()
	if !p.dryRun { // which touches nothing
		for _, folder := range folders {
			if err := errors.Join(report.Write(filepath.Join(folder, "pipeline.json"), run), writePage(folder, run)); err != nil {
				log.Warn().Err(err).Msg("the report of this run could not be written")
			}
		}
	}
	p.unwatch()
	p.traced().Progress(run)
	if !over {
		return
	}
	p.account(run)
	defer p.traced().Close(run)
	if !p.dryRun {
		if err := p.forge.Summary(report.Markdown(run)); err != nil {
			log.Warn().Err(err).Msg("the summary of this run could not be written")
		}
	}
}

func writePage(folder string, run report.Run) error {
	var page bytes.Buffer
	if err := timeline.WriteIn(&page, folder, run); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(folder, "pipeline.html"), page.Bytes())
}

// account tells of the whole run at its end. What a single stage has to tell, it has told.
func (p *Pipeline) account(run report.Run) {
	if len(run.Stages) < 2 || !p.table {
		return
	}
	// In the order in which they ended, what a stage needs before itself.
	slices.SortStableFunc(run.Stages, func(a, b report.Stage) int { return a.End.Compare(b.End) })
	p.printer.text("\n" + report.Table(run, p.printer.width(), p.printer.colour))
}

// frames are those of the sign that something goes on.
var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// show keeps the live line until no stage is active: what runs, and for how long.
func (p *Pipeline) show() {
	if !p.printer.terminal || p.dryRun || p.showing {
		return
	}
	p.showing = true
	go func() {
		for frame := 0; p.draw(frames[frame%len(frames)]); frame++ {
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

// draw draws the live line, and reports whether it has to be drawn again.
func (p *Pipeline) draw(frame rune) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.showing = p.active > 0; !p.showing {
		return false
	}
	var parts []string
	for _, s := range p.order {
		if s.turn && !s.ended() {
			part := fmt.Sprintf("%s %s", s.record.Name, time.Since(s.begin).Round(time.Second))
			if s.doing != "" {
				part += " " + s.doing
			}
			parts = append(parts, part)
		}
	}
	p.printer.show(string(frame) + " " + strings.Join(parts, " · "))
	return true
}

// plan says what the stage would do, in a dry run.
func (p *Pipeline) plan(ctx context.Context, s *stage, body func(context.Context) error, set chosen) error {
	if body == nil && set.plan == nil {
		return nil
	}
	text := "what it does is not known before it runs"
	if set.plan != nil {
		err := contain(ctx, func(ctx context.Context) (err error) {
			text, err = set.plan(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	s.record.Reason = p.masker.Mask(text)
	p.mu.Unlock()
	zerolog.Ctx(ctx).Info().Msg("would run: " + text)
	return nil
}

// CurrentForge returns what is known of the forge and of the run.
func CurrentForge() forge.Forge { return Default().forge }

// Mask strikes the secrets of the run out of a text.
func Mask(text string) string { return Default().masker.Mask(text) }

// AddSecret has the value of a variable struck out from here on, as one that is known to be a secret by its name.
func AddSecret(value string) { Default().masker.AddValue(value) }

// Result prints a line on stdout, which is kept for the results of targets.
func Result(line string) error { return Default().printer.result(line) }

// Coloured reports whether what stages print goes to a terminal that wants colours.
func Coloured() bool { return Default().printer.colour }

// Output sets an output of the CI's step. On a laptop, and in a dry run, it does nothing.
func Output(ctx context.Context, name, value string) {
	p := Default()
	if p.dryRun {
		return
	}
	if err := p.forge.Output(name, value); err != nil {
		zerolog.Ctx(ctx).Warn().Err(err).Msg("an output of this step could not be set")
	}
}

// Annotate shows a message at a position in a file, where the forge can. The file is relative to the current folder.
func Annotate(ctx context.Context, a forge.Annotation) {
	p, s := Default(), current(ctx)
	if s == nil {
		return
	}
	if abs, err := filepath.Abs(a.File); err == nil && p.workspace != "" {
		if rel, err := filepath.Rel(p.workspace, abs); err == nil && filepath.IsLocal(rel) {
			a.File = filepath.ToSlash(rel)
		}
	}
	p.forge.Annotate(records{s.lane}, a)
}

// Publish returns why this run may not push and deploy, nil where it may; see forge.Forge.Publish.
func Publish(allowed bool) error { return Default().forge.Publish(allowed) }

// DryRun reports whether stages only say what they would do.
func DryRun() bool { return Default().dryRun }

// Describe names the service and the commit of the process's pipeline; see Pipeline.Describe.
func Describe(service, commit string) { Default().Describe(service, commit) }

// Report has the record of the process's pipeline written to a folder; see Pipeline.Report.
func Report(folder string) { Default().Report(folder) }

// Warn has a warning told with the next stage of the process's pipeline; see Pipeline.Warn.
func Warn(text string) { Default().Warn(text) }

// Requested reports whether the command line asks for a target; see Pipeline.Requested.
func Requested(name string) bool { return Default().Requested(name) }
