package expr

import (
	"github.com/kiosk-shop/kiosk/faasd/documents/internal/value"
)

// Reader returns an expression: it is [Compile], or [Plain] for updates.
type Reader func(v Value) (Expr, error)

// Plain returns an expression as it is written.
func Plain(v Value) (Expr, error) { return Parse(v) }

// Compile returns an expression whose constant parts are evaluated, as MongoDB does
// before it runs a query. It fails where the expression is invalid and where a
// constant part fails, even if there are no documents.
func Compile(v Value) (Expr, error) {
	e, err := Parse(v)
	if err != nil {
		return nil, err
	}
	return optimize(e)
}

// parent is an expression with others inside.
type parent interface{ children() []Expr }

// foldable is a parent that is a constant where all its children are.
type foldable interface {
	parent
	foldable()
}

func optimize(e Expr) (Expr, error) {
	p, ok := e.(parent)
	if !ok {
		return e, nil
	}
	children := p.children()
	constant := true
	for i, c := range children {
		c, err := optimize(c)
		if err != nil {
			return nil, err
		}
		children[i] = c
		constant = constant && isConstant(c)
	}
	if _, ok := e.(foldable); ok && constant {
		return fold(e)
	}
	if c, ok := e.(*call); ok && c.fn.associative {
		return c.regroup()
	}
	return e, nil
}

func isConstant(e Expr) bool {
	_, ok := e.(literal)
	return ok
}

func fold(e Expr) (Expr, error) {
	v, err := e.Eval(&Vars{})
	return literal{v}, err
}

// regroup returns the operator with the arguments of the same operator inside as its
// own, and with adjacent constants evaluated; all constants of a commutative operator
// are one argument, at the end.
func (c *call) regroup() (Expr, error) {
	var out, constants []Expr
	flush := func() error {
		if len(constants) > 1 {
			e, err := fold(&call{c.fn, constants})
			if err != nil {
				return err
			}
			constants = []Expr{e}
		}
		out, constants = append(out, constants...), nil
		return nil
	}
	queue := c.args
	for len(queue) > 0 {
		e := queue[0]
		queue = queue[1:]
		if isConstant(e) {
			constants = append(constants, e)
			continue
		}
		if inner, ok := e.(*call); ok && inner.fn == c.fn {
			queue = append(append([]Expr(nil), inner.args...), queue...)
			continue
		}
		if !c.fn.commutative {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		out = append(out, e)
	}
	if err := flush(); err != nil {
		return nil, err
	}
	c.args = out
	if c.fn.decides == nil {
		return c, nil
	}
	// $and and $or: a constant at the end decides, or has no effect.
	last, ok := out[len(out)-1].(literal)
	switch {
	case !ok:
	case c.fn.decides(last.v):
		return literal{value.Bool(value.Truthy(last.v))}, nil
	case len(out) == 2:
		return &call{truth, out[:1]}, nil
	default:
		c.args = out[:len(out)-1]
	}
	return c, nil
}
