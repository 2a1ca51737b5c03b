package facade

import (
	"context"
	"encoding/json"
	"math"
	"net/url"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kiosk-shop/kiosk/proto/pb"
)

type inventory struct {
	pb.UnimplementedInventoryServiceServer
	caller
}

// details is what a product is made of, as the function takes it.
type details struct {
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	Category    string      `json:"category"`
	Stock       int32       `json:"stock"`
	Price       json.Number `json:"price"`
	// What the RPCs don't have but a product may.
	SKU      string `json:"sku,omitempty"`
	ImageURL string `json:"image_url,omitempty"`
}

// product is a product as the function shows it.
type product struct {
	ID          string
	Name        string
	Description string
	Category    string
	Stock       int64
	Price       float64
	SKU         string
	ImageURL    string `json:"image_url"`
}

func (p product) message() *pb.Product {
	return &pb.Product{
		Id: p.ID, Name: p.Name, Description: p.Description, Category: p.Category,
		Stock: int32(min(p.Stock, math.MaxInt32)), Price: p.Price,
	}
}

func (s inventory) CreateProduct(ctx context.Context, r *pb.CreateProductRequest) (*pb.ProductResponse, error) {
	price, err := decimal("price", r.Price)
	if err != nil {
		return nil, err
	}
	var created product
	_, err = s.do(ctx, call{method: "POST", function: "products", creates: true, body: details{
		Name: r.Name, Description: r.Description, Category: r.Category, Stock: r.Stock, Price: price,
	}}, &created)
	if err != nil {
		return nil, err
	}
	return &pb.ProductResponse{Product: created.message()}, nil
}

func (s inventory) GetProduct(ctx context.Context, r *pb.GetProductRequest) (*pb.ProductResponse, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	var found product
	if _, err := s.do(ctx, call{method: "GET", function: "products/" + r.Id}, &found); err != nil {
		return nil, err
	}
	return &pb.ProductResponse{Product: found.message()}, nil
}

// UpdateProduct has to send the whole product, and the request lacks some of
// it: it fetches the rest, and starts over when the product changed meanwhile.
func (s inventory) UpdateProduct(ctx context.Context, r *pb.UpdateProductRequest) (*pb.ProductResponse, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	price, err := decimal("price", r.Price)
	if err != nil {
		return nil, err
	}
	const attempts = 5 // somebody else's change each time: a busy product indeed
	for attempt := 1; ; attempt++ {
		var old, updated product
		header, err := s.do(ctx, call{method: "GET", function: "products/" + r.Id}, &old)
		if err != nil {
			return nil, err
		}
		_, err = s.do(ctx, call{method: "PUT", function: "products/" + r.Id, ifMatch: header.Get("Etag"), body: details{
			Name: r.Name, Description: r.Description, Category: r.Category, Stock: r.Stock, Price: price,
			SKU: old.SKU, ImageURL: old.ImageURL,
		}}, &updated)
		switch {
		case err == nil:
			return &pb.ProductResponse{Product: updated.message()}, nil
		case status.Code(err) != codes.FailedPrecondition || attempt == attempts:
			return nil, err
		}
	}
}

func (s inventory) DeleteProduct(ctx context.Context, r *pb.DeleteProductRequest) (*pb.DeleteProductResponse, error) {
	if err := checkID(r.Id); err != nil {
		return nil, err
	}
	var deleted struct{ Message string }
	if _, err := s.do(ctx, call{method: "DELETE", function: "products/" + r.Id}, &deleted); err != nil {
		return nil, err
	}
	return &pb.DeleteProductResponse{Message: deleted.Message}, nil
}

func (s inventory) ListProducts(ctx context.Context, r *pb.ListProductsRequest) (*pb.ListProductsResponse, error) {
	query := make(url.Values)
	if r.Category != "" {
		query.Set("category", r.Category)
	}
	if r.Page != 0 {
		query.Set("page", strconv.Itoa(int(r.Page)))
	}
	if r.Limit != 0 {
		query.Set("limit", strconv.Itoa(int(r.Limit)))
	}
	var page []product
	header, err := s.do(ctx, call{method: "GET", function: "products", query: query}, &page)
	if err != nil {
		return nil, err
	}
	setHeader(ctx, header, totalHeaders...)
	list := &pb.ListProductsResponse{}
	for _, p := range page {
		list.Products = append(list.Products, p.message())
	}
	return list, nil
}
