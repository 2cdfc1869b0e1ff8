"""Invented customers with their orders and messages, as a shop's database would export them."""

import random
from datetime import date, timedelta

GIVEN = (
    "Ada", "Bruno", "Carla", "Dario", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Levin", "Mina",
    "Noah", "Olga", "Pavel", "Rosa", "Samir", "Tilda", "Umut", "Vera", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
FAMILY = (
    "Acker", "Bianchi", "Celik", "Durand", "Ekman", "Ferrari", "Garnier", "Huber", "Ilic", "Jansen", "Kowalski",
    "Lindner", "Moreau", "Novak", "Okafor", "Peters", "Ricci", "Schulte", "Toth", "Urban", "Vidal", "Weber",
)  # fmt: skip
TOWNS = (("50667", "Köln"), ("20095", "Hamburg"), ("69002", "Lyon"), ("10121", "Torino"), ("1010", "Wien"))
GOODS = ("desk lamp", "notebook A5", "office chair", "monitor arm", "label printer", "paper 500 sheets", "ink set")
STAFF = ("s.kurz", "m.adler", "j.fontaine")
MESSAGES = (
    "Where is my order {order}? Please call me at {phone}.",
    "Please refund order {order} to {iban}, thank you.",
    "My colleague {other_email} should get a copy of the invoice for {order}.",
    "The parcel was left with my neighbour {other_name} ({other_phone}). All good now.",
    "Please change my delivery address, I moved last week.",
    "Reply from {staff}@flujo-shop.example: your order {order} leaves our warehouse today.",
)
NOTES = ("", "", "pays late", "asked for the manager twice", "possible reseller", "VIP, be quick")
Row = dict[str, str]


def tables(rng: random.Random) -> dict[str, list[Row]]:
    """The three tables, by file name."""
    customers = [_customer(rng, 1 + number) for number in range(220)]
    orders = [_order(rng, rng.choice(customers), 1 + number) for number in range(640)]
    messages = [_message(rng, order, customers, 1 + number) for number, order in enumerate(rng.sample(orders, 300))]
    return {"customers.csv": customers, "orders.csv": orders, "messages.csv": messages}


def _customer(rng: random.Random, number: int) -> Row:
    given, family = rng.choice(GIVEN), rng.choice(FAMILY)
    postcode, town = rng.choice(TOWNS)
    return {
        "customer_id": f"C{number:04}",
        "name": f"{given} {family}",
        "email": f"{given}.{family}{number}@mail.example".lower(),
        "phone": f"+49 221 {rng.randrange(1_000_000, 9_999_999)}",
        "street": f"{rng.choice(FAMILY)}straße {rng.randrange(1, 140)}",
        "postcode": postcode,
        "town": town,
        "iban": f"DE{rng.randrange(10, 99)}37040044{rng.randrange(10**9, 10**10)}",
        "born_on": (date(1950, 1, 1) + timedelta(days=rng.randrange(20_000))).isoformat(),
        "fraud_score": str(rng.randrange(100)),
        "internal_note": rng.choice(NOTES),
    }


def _order(rng: random.Random, customer: Row, number: int) -> Row:
    return {
        "order_id": f"O{number:05}",
        "customer_id": customer["customer_id"],
        "ordered_on": (date(2025, 1, 1) + timedelta(days=rng.randrange(600))).isoformat(),
        "item": rng.choice(GOODS),
        "quantity": str(rng.randrange(1, 6)),
        "total": f"{rng.randrange(900, 48_000) / 100:.2f}",
        "handled_by": rng.choice(STAFF),
    }


def _message(rng: random.Random, order: Row, customers: list[Row], number: int) -> Row:
    sender = next(customer for customer in customers if customer["customer_id"] == order["customer_id"])
    other = rng.choice(customers)
    text = rng.choice(MESSAGES).format(
        order=order["order_id"],
        phone=sender["phone"],
        iban=sender["iban"],
        other_email=other["email"],
        other_name=other["name"],
        other_phone=other["phone"],
        staff=rng.choice(STAFF),
    )
    sent_on = date.fromisoformat(order["ordered_on"]) + timedelta(days=rng.randrange(1, 20))
    return {
        "message_id": f"M{number:05}",
        "customer_id": order["customer_id"],
        "sent_on": sent_on.isoformat(),
        "text": text,
    }
