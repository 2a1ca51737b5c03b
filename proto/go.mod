module github.com/kiosk-shop/kiosk/proto

go 1.26
