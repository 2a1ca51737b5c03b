package nats

import "context"

// Flush waits until the server has what was announced.
func (c *Conn) Flush(ctx context.Context) error { return c.nc.FlushWithContext(ctx) }
