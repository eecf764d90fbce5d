package stage

import "time"

// SetPatience changes how long stages wait for their turn before one gets it out of turn. It is for pipelines without stages.
func (p *Pipeline) SetPatience(d time.Duration) { p.patience = d }
