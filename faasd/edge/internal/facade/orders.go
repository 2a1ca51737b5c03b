package facade

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	"github.com/kiosk-shop/kiosk/proto/pb"
)

type orders struct {
	pb.UnimplementedOrderServiceServer
	caller
}

// ListUserOrders has no pages, so it collects some: maxPages of pageSize.
const (
	pageSize = 100 // the largest that the function returns
	maxPages = 10
)

type item struct {
	ProductID string `json:"product_id"`
	Quantity  int32  `json:"quantity"`
}

// order is an order as the function shows it.
type order struct {
	ID     string
	UserID string `json:"user_id"`
	Items  []item
	Total  float64
	Status string
}

func (o order) message() *pb.GetOrderResponse {
	m := &pb.GetOrderResponse{Id: o.ID, UserId: o.UserID, Total: o.Total, Status: o.Status}
	for _, i := range o.Items {
		m.Items = append(m.Items, &pb.OrderItem{ProductId: i.ProductID, Quantity: i.Quantity})
	}
	return m
}

func (s orders) CreateOrder(ctx context.Context, r *pb.CreateOrderRequest) (*pb.CreateOrderResponse, error) {
	body := struct {
		UserID string      `json:"user_id,omitempty"`
		Items  []item      `json:"items"`
		Total  json.Number `json:"total,omitempty"`
	}{UserID: r.UserId, Items: []item{}}
	for _, i := range r.Items {
		body.Items = append(body.Items, item{i.GetProductId(), i.GetQuantity()})
	}
	if r.Total != 0 { // proto3 does not distinguish 0 from nothing
		var err error
		if body.Total, err = decimal("total", r.Total); err != nil {
			return nil, err
		}
	}
	var created struct{ ID, Message string }
	header, err := s.do(ctx, call{method: "POST", function: "create-order", body: body}, &created)
	if err != nil {
		return nil, err
	}
	setHeader(ctx, header, "Idempotent-Replayed")
	return &pb.CreateOrderResponse{Id: created.ID, Message: created.Message}, nil
}

func (s orders) GetOrder(ctx context.Context, r *pb.GetOrderRequest) (*pb.GetOrderResponse, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	var found order
	if _, err := s.do(ctx, call{method: "GET", function: "orders/" + r.Id}, &found); err != nil {
		return nil, err
	}
	return found.message(), nil
}

func (s orders) UpdateOrderStatus(ctx context.Context, r *pb.UpdateOrderStatusRequest) (*pb.UpdateOrderStatusResponse, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	var updated struct{ ID, Message string }
	_, err := s.do(ctx, call{method: "PUT", function: "orders/" + r.Id + "/status", body: struct {
		Status string `json:"status"`
	}{r.Status}}, &updated)
	if err != nil {
		return nil, err
	}
	return &pb.UpdateOrderStatusResponse{Id: updated.ID, Message: updated.Message}, nil
}

func (s orders) ListUserOrders(ctx context.Context, r *pb.ListUserOrdersRequest) (*pb.ListUserOrdersResponse, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if r.UserId != "" {
		query.Set("user_id", r.UserId)
	}
	list := &pb.ListUserOrdersResponse{}
	for number := 1; number <= maxPages; number++ {
		var page []order
		header, err := s.do(ctx, call{method: "GET", function: "orders", query: query}, &page)
		if err != nil {
			return nil, err
		}
		if number == 1 {
			setHeader(ctx, header, totalHeaders...)
		}
		for _, o := range page {
			list.Orders = append(list.Orders, o.message())
		}
		after := next(header)
		if after == "" {
			break
		}
		query.Set("after", after)
	}
	return list, nil
}
