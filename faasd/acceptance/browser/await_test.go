package browser

import "github.com/chromedp/cdproto/runtime"

// awaited has an evaluation wait for the promise that it returns.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
