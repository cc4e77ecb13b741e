const described = {
 "asyncapi": "3.0.0",
 "info": {
  "title": "QIG Constellation",
  "version": "1",
  "description": "What travels between the services of a constellation, over Redis streams. A message is one msgpack map (a packet: an array), or one JSON object when its first byte is an opening brace, in the field `__data__` of a stream entry. Bytes are bin in msgpack and lower-case hex in JSON. docs/wire/README.md says the rest.",
  "license": {
   "name": "Apache-2.0"
  }
 },
 "defaultContentType": "application/msgpack",
 "channels": {
  "queries": {
   "address": "qig:queries",
   "description": "Questions; one edge answers each.",
   "messages": {
    "Query": {
     "$ref": "#/components/messages/Query"
    }
   }
  },
  "answers": {
   "address": "qig:answers:{client}",
   "description": "What a client is answered: pieces first, where its query says `stream`.",
   "messages": {
    "Piece": {
     "$ref": "#/components/messages/Piece"
    },
    "Answer": {
     "$ref": "#/components/messages/Answer"
    }
   },
   "parameters": {
    "client": {
     "description": "The name that the query gave: 1 to 64 of A-Z a-z 0-9 . _ -."
    }
   }
  },
  "cancel": {
   "address": "qig:cancel",
   "description": "Queries that nobody waits for any more.",
   "messages": {
    "Cancel": {
     "$ref": "#/components/messages/Cancel"
    }
   }
  },
  "packets": {
   "address": "qig:packets",
   "description": "Sleep packets: what an edge tells of its text.",
   "messages": {
    "Packet": {
     "$ref": "#/components/messages/Packet"
    }
   }
  },
  "batches": {
   "address": "qig:batches",
   "description": "Packets merged, or corrections of them.",
   "messages": {
    "Batch": {
     "$ref": "#/components/messages/Batch"
    }
   }
  },
  "common": {
   "address": "qig:common",
   "description": "What enough edges have mentioned by keyed hash, and may now be said.",
   "messages": {
    "Common": {
     "$ref": "#/components/messages/Common"
    }
   }
  },
  "candidates": {
   "address": "qig:candidates",
   "description": "Bundles to be, each with its evidence.",
   "messages": {
    "Candidate": {
     "$ref": "#/components/messages/Candidate"
    }
   }
  },
  "bundles": {
   "address": "qig:bundles",
   "description": "Releases. What an edge believes is not this message but the TUF metadata that lists it.",
   "messages": {
    "Bundle": {
     "$ref": "#/components/messages/Bundle"
    }
   }
  },
  "returned": {
   "address": "qig:returned",
   "description": "Packets that go into no bundle, so that their edge lets its counts go again.",
   "messages": {
    "Returned": {
     "$ref": "#/components/messages/Returned"
    }
   }
  },
  "applied": {
   "address": "qig:applied",
   "description": "What became of a bundle on an edge.",
   "messages": {
    "Applied": {
     "$ref": "#/components/messages/Applied"
    }
   }
  },
  "heart": {
   "address": "qig:heart",
   "description": "Every few seconds: who lives, and is ready.",
   "messages": {
    "Heartbeat": {
     "$ref": "#/components/messages/Heartbeat"
    }
   }
  },
  "dead": {
   "address": "{stream}:dead",
   "description": "What could not be done, kept with its reason: `qig dead list`, `qig dead replay`.",
   "messages": {
    "DeadLetter": {
     "$ref": "#/components/messages/DeadLetter"
    }
   },
   "parameters": {
    "stream": {
     "description": "A work stream, in the braces of its hash tag.",
     "enum": [
      "{qig:queries}",
      "{qig:packets}",
      "{qig:batches}",
      "{qig:candidates}"
     ]
    }
   }
  }
 },
 "operations": {
  "client.send.queries": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/queries"
   },
   "tags": [
    {
     "name": "client"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/queries/messages/Query"
    }
   ]
  },
  "edge.receive.queries": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/queries"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/queries/messages/Query"
    }
   ]
  },
  "edge.send.answers": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/answers"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/answers/messages/Piece"
    },
    {
     "$ref": "#/channels/answers/messages/Answer"
    }
   ]
  },
  "client.receive.answers": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/answers"
   },
   "tags": [
    {
     "name": "client"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/answers/messages/Piece"
    },
    {
     "$ref": "#/channels/answers/messages/Answer"
    }
   ]
  },
  "client.send.cancel": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/cancel"
   },
   "tags": [
    {
     "name": "client"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/cancel/messages/Cancel"
    }
   ]
  },
  "edge.receive.cancel": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/cancel"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/cancel/messages/Cancel"
    }
   ]
  },
  "edge.send.packets": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/packets"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/packets/messages/Packet"
    }
   ]
  },
  "aggregator.receive.packets": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/packets"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/packets/messages/Packet"
    }
   ]
  },
  "aggregator.send.batches": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/batches"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/batches/messages/Batch"
    }
   ]
  },
  "trainer.receive.batches": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/batches"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/batches/messages/Batch"
    }
   ]
  },
  "aggregator.send.common": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/common"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/common/messages/Common"
    }
   ]
  },
  "edge.receive.common": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/common"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/common/messages/Common"
    }
   ]
  },
  "trainer.send.candidates": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/candidates"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/candidates/messages/Candidate"
    }
   ]
  },
  "publisher.receive.candidates": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/candidates"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/candidates/messages/Candidate"
    }
   ]
  },
  "publisher.send.bundles": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/bundles"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/bundles/messages/Bundle"
    }
   ]
  },
  "edge.receive.bundles": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/bundles"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/bundles/messages/Bundle"
    }
   ]
  },
  "aggregator.receive.bundles": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/bundles"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/bundles/messages/Bundle"
    }
   ]
  },
  "trainer.receive.bundles": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/bundles"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/bundles/messages/Bundle"
    }
   ]
  },
  "publisher.receive.bundles": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/bundles"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/bundles/messages/Bundle"
    }
   ]
  },
  "aggregator.send.returned": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/returned"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/returned/messages/Returned"
    }
   ]
  },
  "trainer.send.returned": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/returned"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/returned/messages/Returned"
    }
   ]
  },
  "publisher.send.returned": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/returned"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/returned/messages/Returned"
    }
   ]
  },
  "edge.receive.returned": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/returned"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/returned/messages/Returned"
    }
   ]
  },
  "edge.send.applied": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/applied"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/applied/messages/Applied"
    }
   ]
  },
  "publisher.receive.applied": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/applied"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/applied/messages/Applied"
    }
   ]
  },
  "edge.receive.applied": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/applied"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/applied/messages/Applied"
    }
   ]
  },
  "edge.send.heart": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "aggregator.send.heart": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "trainer.send.heart": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "publisher.send.heart": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "edge.receive.heart": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "operator.receive.heart": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/heart"
   },
   "tags": [
    {
     "name": "operator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/heart/messages/Heartbeat"
    }
   ]
  },
  "edge.send.dead": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/dead"
   },
   "tags": [
    {
     "name": "edge"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/dead/messages/DeadLetter"
    }
   ]
  },
  "aggregator.send.dead": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/dead"
   },
   "tags": [
    {
     "name": "aggregator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/dead/messages/DeadLetter"
    }
   ]
  },
  "trainer.send.dead": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/dead"
   },
   "tags": [
    {
     "name": "trainer"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/dead/messages/DeadLetter"
    }
   ]
  },
  "publisher.send.dead": {
   "action": "send",
   "channel": {
    "$ref": "#/channels/dead"
   },
   "tags": [
    {
     "name": "publisher"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/dead/messages/DeadLetter"
    }
   ]
  },
  "operator.receive.dead": {
   "action": "receive",
   "channel": {
    "$ref": "#/channels/dead"
   },
   "tags": [
    {
     "name": "operator"
    }
   ],
   "messages": [
    {
     "$ref": "#/channels/dead/messages/DeadLetter"
    }
   ]
  }
 },
 "components": {
  "messages": {
   "Query": {
    "summary": "A question to the fleet, or with max_tokens=0 a text to read, score and learn from.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Query"
    },
    "x-max-bytes": 262144,
    "examples": [
     {
      "payload": {
       "v": 1,
       "id": "q-1",
       "client": "kiosk-7",
       "text": "Wohin fließt der Fluß? 🌊",
       "max_tokens": 64,
       "temperature": 0.8,
       "top_p": 0.9,
       "stop": [
        "\n\n"
       ],
       "seed": 7,
       "stream": true,
       "deadline_s": 30.0,
       "mode": "constellation",
       "store": true
      }
     }
    ]
   },
   "Piece": {
    "summary": "Some of an answer's text, as it is made. Index 0 begins the text anew: another edge may have taken it over.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Piece"
    },
    "x-max-bytes": 32768,
    "examples": [
     {
      "payload": {
       "v": 1,
       "query_id": "q-1",
       "client": "kiosk-7",
       "node": "edge-1",
       "index": 0,
       "text": "Zum ",
       "tokens": 2
      }
     }
    ]
   },
   "Answer": {
    "summary": "What came back for one query, with the evidence of how; None where a quantity is not known.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Answer"
    },
    "x-max-bytes": 327680,
    "examples": [
     {
      "payload": {
       "v": 1,
       "query_id": "q-1",
       "client": "kiosk-7",
       "node": "edge-1",
       "bundle": 1,
       "text": "Zum Meer.",
       "finish": "stop",
       "prompt_tokens": 9,
       "completion_tokens": 4,
       "prompt_bytes": 28,
       "prompt_bits": 61.5,
       "route": [
        {
         "domain": "heart",
         "kernel": "heart",
         "distance_rad": 0.25,
         "weight": 0.75
        },
        {
         "domain": "sea",
         "kernel": "percept",
         "distance_rad": 0.5,
         "weight": 0.25
        }
       ],
       "margin_rad": 0.25,
       "abstained": false,
       "kernel": "heart",
       "domain": "heart",
       "phi": 0.79,
       "phi_p": 0.001,
       "constellation_phi": null,
       "constellation_phi_p": null,
       "kappa": 64.0,
       "phase": "CRYSTAL",
       "seconds": 0.125,
       "problem": null
      }
     }
    ]
   },
   "Cancel": {
    "summary": "The client no longer wants an answer: the edge that makes it stops between two tokens and says what it has.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Cancel"
    },
    "x-max-bytes": 32768,
    "examples": [
     {
      "payload": {
       "v": 1,
       "query_id": "q-1",
       "client": "kiosk-7"
      }
     }
    ]
   },
   "Packet": {
    "summary": "Who says it, when, against which bundle; the body is still closed.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Packet"
    },
    "x-max-bytes": 4096
   },
   "Batch": {
    "summary": "Packets merged by the aggregator, domain by domain, for the trainer; or corrections of earlier ones, and nothing",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Batch"
    },
    "x-max-bytes": 1048576,
    "examples": [
     {
      "payload": {
       "v": 1,
       "id": "e06e680dd6ad5f40e5725de27cf1d9d6941366e0ca45e62740d7baf824629778",
       "base_version": 0,
       "base_digest": "",
       "domains": [
        {
         "name": "sea",
         "kernel": "percept",
         "opened": true,
         "basin": "e00fe013e815e017ec18e819e41ae01b6e1cec1c6a1de81d661ee41e621fe01f2f206e20ad20ec202b216a21a921e82127226622a522e42223236223a123e02310242f244f246e248e24ad24cd24ec240c252b254b256a258a25a925c925e82508262726472666268626a526c526e42604272327432762278227a127c127e027",
         "crystals": "0153f69e3000080403488000100000000300060a0400020406030203046474b4aa712ce94d3722e203f580",
         "gate": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f606162",
         "packets": 2,
         "tokens": 9000,
         "fresh_bytes": 30000,
         "fresh_bits": 90000.5
        }
       ],
       "packets": [
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 1
        },
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 2
        }
       ],
       "merges": [],
       "vocabulary": "",
       "corrections": []
      }
     }
    ]
   },
   "Common": {
    "summary": "What enough edges have mentioned, and the packets that did nothing but mention: no bundle will name them.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Common"
    },
    "x-max-bytes": 81920,
    "examples": [
     {
      "payload": {
       "v": 1,
       "hashes": "0400d0bbbe55313e4d4436601888",
       "packets": [
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 1
        },
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 2
        }
       ]
      }
     }
    ]
   },
   "Candidate": {
    "summary": "A constellation the trainer proposes: unsigned, with its evidence.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Candidate"
    },
    "x-max-bytes": 1048576,
    "examples": [
     {
      "payload": {
       "v": 1,
       "id": "c-1",
       "parent": 0,
       "parent_digest": "",
       "parts": {
        "domains.json": {
         "digest": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
         "size_bytes": 2
        },
        "memories/sea.bin": {
         "digest": "eb81ba5ff779ca24d480493b87b9ad1c6ae8fd62211d6b3e8344c03aa55d495b",
         "size_bytes": 5
        }
       },
       "evidence": {
        "figures": [
         {
          "name": "held_out",
          "domain": "sea",
          "before": 3.5,
          "after": 2.25,
          "unit": "bits/byte"
         }
        ],
        "guards": [
         "renewal"
        ],
        "seconds": 12.5
       },
       "packets": [
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 1
        },
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 2
        }
       ]
      }
     }
    ]
   },
   "Bundle": {
    "summary": "A constellation the publisher released. `key` and `signature` are bundle.py's.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Bundle"
    },
    "x-max-bytes": 1048576,
    "examples": [
     {
      "payload": {
       "v": 1,
       "version": 1,
       "id": "c-1",
       "parent": 0,
       "parent_digest": "",
       "parts": {
        "domains.json": {
         "digest": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
         "size_bytes": 2
        },
        "memories/sea.bin": {
         "digest": "eb81ba5ff779ca24d480493b87b9ad1c6ae8fd62211d6b3e8344c03aa55d495b",
         "size_bytes": 5
        }
       },
       "evidence": {
        "figures": [
         {
          "name": "held_out",
          "domain": "sea",
          "before": 3.5,
          "after": 2.25,
          "unit": "bits/byte"
         }
        ],
        "guards": [
         "renewal"
        ],
        "seconds": 12.5
       },
       "packets": [
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 1
        },
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 2
        }
       ],
       "released_at_s": 1790000000.5,
       "key": "56475aa75463474c",
       "signature": "c92426ac33ea043771e49c9e0151e088b6cad2cdba6285c8aa7d4ab8b21770ccca1b4bdaea3d680eb05abbd464dff0fb94ccf3e60d2569bd5f6224b255650702"
      }
     }
    ]
   },
   "Returned": {
    "summary": "Packets that the centre has dropped for good: it will never count them, so their edges may send what they carried",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Returned"
    },
    "x-max-bytes": 1048576,
    "examples": [
     {
      "payload": {
       "v": 1,
       "packets": [
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 1
        },
        {
         "key": "56475aa75463474c",
         "epoch": 1,
         "sequence": 2
        }
       ],
       "code": "candidate_refused",
       "reason": "bits_per_byte of heart is 2.00% worse"
      }
     }
    ]
   },
   "Applied": {
    "summary": "An edge's verdict on a bundle: tried on its own probe text and applied or refused; once applied, watched while it",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Applied"
    },
    "x-max-bytes": 32768,
    "examples": [
     {
      "payload": {
       "v": 1,
       "node": "edge-1",
       "version": 1,
       "verdict": "applied",
       "reason": "",
       "probe_before": 2.5,
       "probe_after": 2.25,
       "at_s": 1790000000.5
      }
     }
    ]
   },
   "Heartbeat": {
    "summary": "A service says that it lives, and how its kernels are; the maps are keyed by domain.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/Heartbeat"
    },
    "x-max-bytes": 32768,
    "examples": [
     {
      "payload": {
       "v": 1,
       "node": "edge-1",
       "service": "edge",
       "at_s": 1790000000.5,
       "bundle": 1,
       "ready": true,
       "phases": {
        "heart": "CRYSTAL",
        "vocab": "TACKING"
       },
       "phi": {
        "heart": 0.79,
        "vocab": null
       },
       "kappa": {
        "heart": 64.0,
        "vocab": 31.5
       },
       "bits_per_byte": {
        "heart": 2.5
       },
       "local_bits_per_byte": {
        "heart": 2.25
       },
       "fresh_bytes": 20000
      }
     }
    ]
   },
   "DeadLetter": {
    "summary": "An entry that will not be retried, whole, with the reason.",
    "contentType": "application/msgpack",
    "payload": {
     "$ref": "#/components/schemas/DeadLetter"
    },
    "x-max-bytes": 1053696,
    "examples": [
     {
      "payload": {
       "v": 1,
       "stream": "qig:queries",
       "entry": "1790000000500-0",
       "code": "garbage",
       "reason": "Query: 1 bytes that are no msgpack value",
       "deliveries": 1,
       "body": "c1",
       "at_s": 1790000000.5
      }
     }
    ]
   }
  },
  "schemas": {
   "Query": {
    "additionalProperties": false,
    "description": "A question to the fleet, or with max_tokens=0 a text to read, score and learn from.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "id": {
      "anyOf": [
       {
        "maxLength": 64,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Id"
     },
     "client": {
      "default": "anonymous",
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Client",
      "type": "string"
     },
     "text": {
      "maxLength": 16384,
      "minLength": 1,
      "title": "Text",
      "type": "string"
     },
     "max_tokens": {
      "default": 128,
      "maximum": 1024,
      "minimum": 0,
      "title": "Max Tokens",
      "type": "integer"
     },
     "temperature": {
      "default": 0.8,
      "maximum": 2.0,
      "minimum": 0.0,
      "title": "Temperature",
      "type": "number"
     },
     "top_p": {
      "default": 1.0,
      "exclusiveMinimum": 0.0,
      "maximum": 1.0,
      "title": "Top P",
      "type": "number"
     },
     "stop": {
      "default": [],
      "items": {
       "maxLength": 64,
       "minLength": 1,
       "type": "string"
      },
      "maxItems": 4,
      "title": "Stop",
      "type": "array"
     },
     "seed": {
      "anyOf": [
       {
        "maximum": 9007199254740991,
        "minimum": 0,
        "type": "integer"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Seed"
     },
     "stream": {
      "default": false,
      "title": "Stream",
      "type": "boolean"
     },
     "deadline_s": {
      "anyOf": [
       {
        "exclusiveMinimum": 0.0,
        "maximum": 86400.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Deadline S"
     },
     "mode": {
      "default": "routed",
      "enum": [
       "routed",
       "constellation",
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "title": "Mode",
      "type": "string"
     },
     "store": {
      "default": true,
      "title": "Store",
      "type": "boolean"
     }
    },
    "required": [
     "text"
    ],
    "title": "Query",
    "type": "object"
   },
   "Piece": {
    "additionalProperties": false,
    "description": "Some of an answer's text, as it is made. Index 0 begins the text anew: another edge may have taken it over.\n\nThe Answer, which comes last, has the whole text; a piece may be lost with the edge that sent it, the Answer is not.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "query_id": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Query Id",
      "type": "string"
     },
     "client": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Client",
      "type": "string"
     },
     "node": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Node",
      "type": "string"
     },
     "index": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Index",
      "type": "integer"
     },
     "text": {
      "maxLength": 4096,
      "title": "Text",
      "type": "string"
     },
     "tokens": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Tokens",
      "type": "integer"
     }
    },
    "required": [
     "query_id",
     "client",
     "node",
     "index",
     "text",
     "tokens"
    ],
    "title": "Piece",
    "type": "object"
   },
   "Problem": {
    "additionalProperties": false,
    "description": "Why a query was not answered: an error's code and message.",
    "properties": {
     "code": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Code",
      "type": "string"
     },
     "message": {
      "maxLength": 512,
      "title": "Message",
      "type": "string"
     },
     "retry_after_s": {
      "anyOf": [
       {
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Retry After S"
     }
    },
    "required": [
     "code",
     "message"
    ],
    "title": "Problem",
    "type": "object"
   },
   "RouteStep": {
    "additionalProperties": false,
    "description": "One domain the router weighed: the Fisher-Rao distance from the query's basin to its own, and its share of the\nanswer.",
    "properties": {
     "domain": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Domain",
      "type": "string"
     },
     "kernel": {
      "enum": [
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "title": "Kernel",
      "type": "string"
     },
     "distance_rad": {
      "maximum": 3.1415927,
      "minimum": 0.0,
      "title": "Distance Rad",
      "type": "number"
     },
     "weight": {
      "maximum": 1.0,
      "minimum": 0.0,
      "title": "Weight",
      "type": "number"
     }
    },
    "required": [
     "domain",
     "kernel",
     "distance_rad",
     "weight"
    ],
    "title": "RouteStep",
    "type": "object"
   },
   "Answer": {
    "additionalProperties": false,
    "description": "What came back for one query, with the evidence of how; None where a quantity is not known.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "query_id": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Query Id",
      "type": "string"
     },
     "client": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Client",
      "type": "string"
     },
     "node": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Node",
      "type": "string"
     },
     "bundle": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Bundle",
      "type": "integer"
     },
     "text": {
      "maxLength": 65536,
      "title": "Text",
      "type": "string"
     },
     "finish": {
      "enum": [
       "stop",
       "length",
       "read",
       "cancelled",
       "refused"
      ],
      "title": "Finish",
      "type": "string"
     },
     "prompt_tokens": {
      "default": 0,
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Prompt Tokens",
      "type": "integer"
     },
     "completion_tokens": {
      "default": 0,
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Completion Tokens",
      "type": "integer"
     },
     "prompt_bytes": {
      "default": 0,
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Prompt Bytes",
      "type": "integer"
     },
     "prompt_bits": {
      "default": 0.0,
      "minimum": 0.0,
      "title": "Prompt Bits",
      "type": "number"
     },
     "route": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/RouteStep"
      },
      "maxItems": 64,
      "title": "Route",
      "type": "array"
     },
     "margin_rad": {
      "anyOf": [
       {
        "maximum": 3.1415927,
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Margin Rad"
     },
     "abstained": {
      "default": false,
      "title": "Abstained",
      "type": "boolean"
     },
     "kernel": {
      "anyOf": [
       {
        "enum": [
         "vocab",
         "strategy",
         "percept",
         "heart"
        ],
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Kernel"
     },
     "domain": {
      "anyOf": [
       {
        "maxLength": 64,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Domain"
     },
     "phi": {
      "anyOf": [
       {
        "maximum": 1.0,
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Phi"
     },
     "phi_p": {
      "anyOf": [
       {
        "maximum": 1.0,
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Phi P"
     },
     "constellation_phi": {
      "anyOf": [
       {
        "maximum": 1.0,
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Constellation Phi"
     },
     "constellation_phi_p": {
      "anyOf": [
       {
        "maximum": 1.0,
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Constellation Phi P"
     },
     "kappa": {
      "anyOf": [
       {
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Kappa"
     },
     "phase": {
      "anyOf": [
       {
        "enum": [
         "FOAM",
         "TACKING",
         "CRYSTAL",
         "FRACTURE"
        ],
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Phase"
     },
     "seconds": {
      "default": 0.0,
      "minimum": 0.0,
      "title": "Seconds",
      "type": "number"
     },
     "problem": {
      "anyOf": [
       {
        "$ref": "#/components/schemas/Problem"
       },
       {
        "type": "null"
       }
      ],
      "default": null
     }
    },
    "required": [
     "query_id",
     "client",
     "node",
     "bundle",
     "text",
     "finish"
    ],
    "title": "Answer",
    "type": "object"
   },
   "Cancel": {
    "additionalProperties": false,
    "description": "The client no longer wants an answer: the edge that makes it stops between two tokens and says what it has.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "query_id": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Query Id",
      "type": "string"
     },
     "client": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Client",
      "type": "string"
     }
    },
    "required": [
     "query_id",
     "client"
    ],
    "title": "Cancel",
    "type": "object"
   },
   "Packet": {
    "additionalProperties": false,
    "description": "Who says it, when, against which bundle; the body is still closed.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "key": {
      "description": "8 to 8 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 16,
      "minLength": 16,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Key",
      "type": "string"
     },
     "epoch": {
      "maximum": 4294967295,
      "minimum": 0,
      "title": "Epoch",
      "type": "integer"
     },
     "sequence": {
      "maximum": 4294967295,
      "minimum": 0,
      "title": "Sequence",
      "type": "integer"
     },
     "base_version": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Base Version",
      "type": "integer"
     },
     "base": {
      "description": "8 to 8 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 16,
      "minLength": 16,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Base",
      "type": "string"
     },
     "at_s": {
      "maximum": 100000000000.0,
      "minimum": 0.0,
      "title": "At S",
      "type": "number"
     },
     "body": {
      "description": "1 to 4096 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 8192,
      "minLength": 2,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Body",
      "type": "string"
     },
     "signature": {
      "description": "64 to 64 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 128,
      "minLength": 128,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Signature",
      "type": "string"
     }
    },
    "required": [
     "key",
     "epoch",
     "sequence",
     "base_version",
     "base",
     "at_s",
     "body",
     "signature"
    ],
    "title": "Envelope",
    "type": "object"
   },
   "Correction": {
    "additionalProperties": false,
    "description": "What an earlier batch said of a domain, and what it says without a node that was disowned.",
    "properties": {
     "batch": {
      "pattern": "^[0-9a-f]{64}$",
      "title": "Batch",
      "type": "string"
     },
     "name": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Name",
      "type": "string"
     },
     "was": {
      "description": "0 to 196608 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 393216,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Was",
      "type": "string"
     },
     "now": {
      "description": "0 to 196608 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 393216,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Now",
      "type": "string"
     }
    },
    "required": [
     "batch",
     "name",
     "was",
     "now"
    ],
    "title": "Correction",
    "type": "object"
   },
   "DomainUpdate": {
    "additionalProperties": false,
    "description": "What a batch's packets taught about one domain, merged.",
    "properties": {
     "name": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Name",
      "type": "string"
     },
     "kernel": {
      "enum": [
       "vocab",
       "strategy",
       "percept",
       "heart"
      ],
      "title": "Kernel",
      "type": "string"
     },
     "opened": {
      "title": "Opened",
      "type": "boolean"
     },
     "basin": {
      "description": "128 to 128 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 256,
      "minLength": 256,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Basin",
      "type": "string"
     },
     "crystals": {
      "description": "0 to 196608 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 393216,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Crystals",
      "type": "string"
     },
     "gate": {
      "default": "",
      "description": "0 to 256 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 512,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Gate",
      "type": "string"
     },
     "packets": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Packets",
      "type": "integer"
     },
     "tokens": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Tokens",
      "type": "integer"
     },
     "fresh_bytes": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Fresh Bytes",
      "type": "integer"
     },
     "fresh_bits": {
      "minimum": 0.0,
      "title": "Fresh Bits",
      "type": "number"
     }
    },
    "required": [
     "name",
     "kernel",
     "opened",
     "basin",
     "crystals",
     "packets",
     "tokens",
     "fresh_bytes",
     "fresh_bits"
    ],
    "title": "DomainUpdate",
    "type": "object"
   },
   "Merge": {
    "additionalProperties": false,
    "description": "A merge that several edges proposed: two tokens which would be one, and how often each edge saw them so.",
    "properties": {
     "left": {
      "exclusiveMaximum": 32768,
      "minimum": 0,
      "title": "Left",
      "type": "integer"
     },
     "right": {
      "exclusiveMaximum": 32768,
      "minimum": 0,
      "title": "Right",
      "type": "integer"
     },
     "edges": {
      "items": {
       "maxItems": 2,
       "minItems": 2,
       "prefixItems": [
        {
         "description": "8 to 8 bytes: bin in msgpack, lower-case hex in JSON",
         "maxLength": 16,
         "minLength": 16,
         "pattern": "^([0-9a-f]{2})*$",
         "type": "string"
        },
        {
         "maximum": 9007199254740991,
         "minimum": 0,
         "type": "integer"
        }
       ],
       "type": "array"
      },
      "maxItems": 8,
      "minItems": 1,
      "title": "Edges",
      "type": "array"
     }
    },
    "required": [
     "left",
     "right",
     "edges"
    ],
    "title": "Merge",
    "type": "object"
   },
   "PacketRef": {
    "additionalProperties": false,
    "description": "Which packet: the edge's key, its life (epoch) and its place in it. Two packets never share one.",
    "properties": {
     "key": {
      "description": "8 to 8 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 16,
      "minLength": 16,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Key",
      "type": "string"
     },
     "epoch": {
      "maximum": 4294967295,
      "minimum": 0,
      "title": "Epoch",
      "type": "integer"
     },
     "sequence": {
      "maximum": 4294967295,
      "minimum": 0,
      "title": "Sequence",
      "type": "integer"
     }
    },
    "required": [
     "key",
     "epoch",
     "sequence"
    ],
    "title": "PacketRef",
    "type": "object"
   },
   "Batch": {
    "additionalProperties": false,
    "description": "Packets merged by the aggregator, domain by domain, for the trainer; or corrections of earlier ones, and nothing\nelse. Without domains: packets of which nothing counts yet, and which a bundle is to settle.\n\nvocabulary: the lineage (common/coordizer/artifacts.py) of the ids that it counts; \"\" where that is not told.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "id": {
      "pattern": "^[0-9a-f]{64}$",
      "title": "Id",
      "type": "string"
     },
     "base_version": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Base Version",
      "type": "integer"
     },
     "base_digest": {
      "pattern": "^([0-9a-f]{64})?$",
      "title": "Base Digest",
      "type": "string"
     },
     "domains": {
      "items": {
       "$ref": "#/components/schemas/DomainUpdate"
      },
      "maxItems": 64,
      "title": "Domains",
      "type": "array"
     },
     "packets": {
      "items": {
       "$ref": "#/components/schemas/PacketRef"
      },
      "maxItems": 256,
      "title": "Packets",
      "type": "array"
     },
     "merges": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/Merge"
      },
      "maxItems": 64,
      "title": "Merges",
      "type": "array"
     },
     "vocabulary": {
      "default": "",
      "pattern": "^([0-9a-f]{64})?$",
      "title": "Vocabulary",
      "type": "string"
     },
     "corrections": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/Correction"
      },
      "maxItems": 256,
      "title": "Corrections",
      "type": "array"
     }
    },
    "required": [
     "id",
     "base_version",
     "base_digest",
     "domains",
     "packets"
    ],
    "title": "Batch",
    "type": "object"
   },
   "Common": {
    "additionalProperties": false,
    "description": "What enough edges have mentioned, and the packets that did nothing but mention: no bundle will name them.\n\nhashes: a set in the form of mentions.py. An edge that shares the secret knows which of its own they are.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "hashes": {
      "default": "",
      "description": "0 to 65536 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 131072,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Hashes",
      "type": "string"
     },
     "packets": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/PacketRef"
      },
      "maxItems": 256,
      "title": "Packets",
      "type": "array"
     }
    },
    "title": "Common",
    "type": "object"
   },
   "Evidence": {
    "additionalProperties": false,
    "description": "What was measured on a candidate, and which guards spoke while it was made.",
    "properties": {
     "figures": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/Figure"
      },
      "maxItems": 512,
      "title": "Figures",
      "type": "array"
     },
     "guards": {
      "default": [],
      "items": {
       "maxLength": 64,
       "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
       "type": "string"
      },
      "maxItems": 64,
      "title": "Guards",
      "type": "array"
     },
     "seconds": {
      "default": 0.0,
      "minimum": 0.0,
      "title": "Seconds",
      "type": "number"
     }
    },
    "title": "Evidence",
    "type": "object"
   },
   "Figure": {
    "additionalProperties": false,
    "description": "One measured number, before (None: there was none) and after.\n\nlow, high: the 95 % confidence interval of after - before, where it is known; both or neither.",
    "properties": {
     "name": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Name",
      "type": "string"
     },
     "domain": {
      "anyOf": [
       {
        "maxLength": 64,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        "type": "string"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Domain"
     },
     "before": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "title": "Before"
     },
     "after": {
      "title": "After",
      "type": "number"
     },
     "unit": {
      "maxLength": 32,
      "title": "Unit",
      "type": "string"
     },
     "low": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Low"
     },
     "high": {
      "anyOf": [
       {
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "High"
     }
    },
    "required": [
     "name",
     "before",
     "after",
     "unit"
    ],
    "title": "Figure",
    "type": "object"
   },
   "Part": {
    "additionalProperties": false,
    "description": "One file of a bundle, by content; its bytes lie in the store under the digest.",
    "properties": {
     "digest": {
      "pattern": "^[0-9a-f]{64}$",
      "title": "Digest",
      "type": "string"
     },
     "size_bytes": {
      "maximum": 4294967296,
      "minimum": 0,
      "title": "Size Bytes",
      "type": "integer"
     }
    },
    "required": [
     "digest",
     "size_bytes"
    ],
    "title": "Part",
    "type": "object"
   },
   "Candidate": {
    "additionalProperties": false,
    "description": "A constellation the trainer proposes: unsigned, with its evidence.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "id": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Id",
      "type": "string"
     },
     "parent": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Parent",
      "type": "integer"
     },
     "parent_digest": {
      "pattern": "^([0-9a-f]{64})?$",
      "title": "Parent Digest",
      "type": "string"
     },
     "parts": {
      "maxProperties": 256,
      "minProperties": 1,
      "patternProperties": {
       "^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$": {
        "$ref": "#/components/schemas/Part"
       }
      },
      "propertyNames": {
       "maxLength": 128
      },
      "title": "Parts",
      "type": "object"
     },
     "evidence": {
      "$ref": "#/components/schemas/Evidence"
     },
     "packets": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/PacketRef"
      },
      "maxItems": 4096,
      "title": "Packets",
      "type": "array"
     }
    },
    "required": [
     "id",
     "parent",
     "parent_digest",
     "parts",
     "evidence"
    ],
    "title": "Candidate",
    "type": "object"
   },
   "Bundle": {
    "additionalProperties": false,
    "description": "A constellation the publisher released. `key` and `signature` are bundle.py's.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "version": {
      "maximum": 9007199254740991,
      "minimum": 1,
      "title": "Version",
      "type": "integer"
     },
     "id": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Id",
      "type": "string"
     },
     "parent": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Parent",
      "type": "integer"
     },
     "parent_digest": {
      "pattern": "^([0-9a-f]{64})?$",
      "title": "Parent Digest",
      "type": "string"
     },
     "parts": {
      "maxProperties": 256,
      "minProperties": 1,
      "patternProperties": {
       "^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$": {
        "$ref": "#/components/schemas/Part"
       }
      },
      "propertyNames": {
       "maxLength": 128
      },
      "title": "Parts",
      "type": "object"
     },
     "evidence": {
      "$ref": "#/components/schemas/Evidence"
     },
     "packets": {
      "default": [],
      "items": {
       "$ref": "#/components/schemas/PacketRef"
      },
      "maxItems": 4096,
      "title": "Packets",
      "type": "array"
     },
     "released_at_s": {
      "maximum": 100000000000.0,
      "minimum": 0.0,
      "title": "Released At S",
      "type": "number"
     },
     "key": {
      "description": "8 to 8 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 16,
      "minLength": 16,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Key",
      "type": "string"
     },
     "signature": {
      "description": "64 to 64 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 128,
      "minLength": 128,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Signature",
      "type": "string"
     }
    },
    "required": [
     "version",
     "id",
     "parent",
     "parent_digest",
     "parts",
     "evidence",
     "released_at_s",
     "key",
     "signature"
    ],
    "title": "Bundle",
    "type": "object"
   },
   "Returned": {
    "additionalProperties": false,
    "description": "Packets that the centre has dropped for good: it will never count them, so their edges may send what they carried\nagain, under other names. code \"taken_back\": also those that a release had counted.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "packets": {
      "items": {
       "$ref": "#/components/schemas/PacketRef"
      },
      "maxItems": 4096,
      "minItems": 1,
      "title": "Packets",
      "type": "array"
     },
     "code": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Code",
      "type": "string"
     },
     "reason": {
      "default": "",
      "maxLength": 512,
      "title": "Reason",
      "type": "string"
     }
    },
    "required": [
     "packets",
     "code"
    ],
    "title": "Returned",
    "type": "object"
   },
   "Applied": {
    "additionalProperties": false,
    "description": "An edge's verdict on a bundle: tried on its own probe text and applied or refused; once applied, watched while it\nserves, and found good, or gone back from (\"reverted\").",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "node": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Node",
      "type": "string"
     },
     "version": {
      "maximum": 9007199254740991,
      "minimum": 1,
      "title": "Version",
      "type": "integer"
     },
     "verdict": {
      "enum": [
       "applied",
       "good",
       "refused",
       "reverted"
      ],
      "title": "Verdict",
      "type": "string"
     },
     "reason": {
      "default": "",
      "maxLength": 512,
      "title": "Reason",
      "type": "string"
     },
     "probe_before": {
      "anyOf": [
       {
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Probe Before"
     },
     "probe_after": {
      "anyOf": [
       {
        "minimum": 0.0,
        "type": "number"
       },
       {
        "type": "null"
       }
      ],
      "default": null,
      "title": "Probe After"
     },
     "at_s": {
      "maximum": 100000000000.0,
      "minimum": 0.0,
      "title": "At S",
      "type": "number"
     }
    },
    "required": [
     "node",
     "version",
     "verdict",
     "at_s"
    ],
    "title": "Applied",
    "type": "object"
   },
   "Heartbeat": {
    "additionalProperties": false,
    "description": "A service says that it lives, and how its kernels are; the maps are keyed by domain.\n\nbits_per_byte, local_bits_per_byte: of the text last learned there, before it was learned, under the bundle's kernel\nand under the one that answers.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "node": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Node",
      "type": "string"
     },
     "service": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Service",
      "type": "string"
     },
     "at_s": {
      "maximum": 100000000000.0,
      "minimum": 0.0,
      "title": "At S",
      "type": "number"
     },
     "bundle": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Bundle",
      "type": "integer"
     },
     "ready": {
      "title": "Ready",
      "type": "boolean"
     },
     "phases": {
      "maxProperties": 64,
      "patternProperties": {
       "^[A-Za-z0-9][A-Za-z0-9._-]*$": {
        "enum": [
         "FOAM",
         "TACKING",
         "CRYSTAL",
         "FRACTURE"
        ],
        "type": "string"
       }
      },
      "propertyNames": {
       "maxLength": 64
      },
      "title": "Phases",
      "type": "object"
     },
     "phi": {
      "maxProperties": 64,
      "patternProperties": {
       "^[A-Za-z0-9][A-Za-z0-9._-]*$": {
        "anyOf": [
         {
          "maximum": 1.0,
          "minimum": 0.0,
          "type": "number"
         },
         {
          "type": "null"
         }
        ]
       }
      },
      "propertyNames": {
       "maxLength": 64
      },
      "title": "Phi",
      "type": "object"
     },
     "kappa": {
      "maxProperties": 64,
      "patternProperties": {
       "^[A-Za-z0-9][A-Za-z0-9._-]*$": {
        "anyOf": [
         {
          "minimum": 0.0,
          "type": "number"
         },
         {
          "type": "null"
         }
        ]
       }
      },
      "propertyNames": {
       "maxLength": 64
      },
      "title": "Kappa",
      "type": "object"
     },
     "bits_per_byte": {
      "maxProperties": 64,
      "patternProperties": {
       "^[A-Za-z0-9][A-Za-z0-9._-]*$": {
        "minimum": 0.0,
        "type": "number"
       }
      },
      "propertyNames": {
       "maxLength": 64
      },
      "title": "Bits Per Byte",
      "type": "object"
     },
     "local_bits_per_byte": {
      "maxProperties": 64,
      "patternProperties": {
       "^[A-Za-z0-9][A-Za-z0-9._-]*$": {
        "minimum": 0.0,
        "type": "number"
       }
      },
      "propertyNames": {
       "maxLength": 64
      },
      "title": "Local Bits Per Byte",
      "type": "object"
     },
     "fresh_bytes": {
      "default": 0,
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Fresh Bytes",
      "type": "integer"
     }
    },
    "required": [
     "node",
     "service",
     "at_s",
     "bundle",
     "ready"
    ],
    "title": "Heartbeat",
    "type": "object"
   },
   "DeadLetter": {
    "additionalProperties": false,
    "description": "An entry that will not be retried, whole, with the reason.",
    "properties": {
     "v": {
      "const": 1,
      "default": 1,
      "title": "V",
      "type": "integer"
     },
     "stream": {
      "maxLength": 128,
      "minLength": 1,
      "title": "Stream",
      "type": "string"
     },
     "entry": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Entry",
      "type": "string"
     },
     "code": {
      "maxLength": 64,
      "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      "title": "Code",
      "type": "string"
     },
     "reason": {
      "maxLength": 512,
      "title": "Reason",
      "type": "string"
     },
     "deliveries": {
      "maximum": 9007199254740991,
      "minimum": 0,
      "title": "Deliveries",
      "type": "integer"
     },
     "body": {
      "description": "0 to 1049600 bytes: bin in msgpack, lower-case hex in JSON",
      "maxLength": 2099200,
      "minLength": 0,
      "pattern": "^([0-9a-f]{2})*$",
      "title": "Body",
      "type": "string"
     },
     "at_s": {
      "maximum": 100000000000.0,
      "minimum": 0.0,
      "title": "At S",
      "type": "number"
     }
    },
    "required": [
     "stream",
     "entry",
     "code",
     "reason",
     "deliveries",
     "body",
     "at_s"
    ],
    "title": "DeadLetter",
    "type": "object"
   }
  }
 }
};
